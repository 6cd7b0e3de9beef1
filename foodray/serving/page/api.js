// The endpoint: every request of the page goes through `call`, with the key of this tab.

const PLACE = "foodray-key";

/** A request that failed, in words for people. */
export class Problem extends Error {
  constructor(words, { code = "", requestId = "" } = {}) {
    super(words);
    this.code = code;
    this.requestId = requestId;
  }
}

export const storedKey = () => sessionStorage.getItem(PLACE) ?? "";

export function storeKey(key) {
  if (key && !/^[\x21-\x7e]{1,300}$/.test(key)) throw new Problem("An API key has only letters, digits and signs, without spaces.");
  if (key) sessionStorage.setItem(PLACE, key);
  else sessionStorage.removeItem(PLACE);
}

/** The response of a path relative to the page; throws a `Problem` for every other end. */
export async function call(path, { method = "GET", body, json } = {}) {
  const headers = {};
  if (storedKey()) headers.Authorization = `Bearer ${storedKey()}`;
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body, credentials: "omit", cache: "no-store", redirect: "error", referrerPolicy: "no-referrer" });
  } catch {
    throw new Problem("The endpoint cannot be reached. Check the connection and try again.");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

export const getJson = async (path) => (await call(path)).json();

/** The path of a kept analysis, and of what is below it. */
export const analysisPath = (id, below = "") => `v1/analyses/${encodeURIComponent(id)}${below}`;

async function problemOf(response) {
  const requestId = response.headers.get("X-Request-ID") ?? "";
  try {
    const { title, detail, code, request_id } = await response.json();
    const words = [title, detail].filter((part) => typeof part === "string" && part).join(": ");
    const wait = response.headers.get("Retry-After");
    return new Problem(`${words || `The endpoint answered ${response.status}`}.${wait ? ` Try again in ${wait} s.` : ""}`, { code, requestId: request_id ?? requestId });
  } catch {
    return new Problem(`The endpoint answered ${response.status}.`, { requestId });
  }
}
