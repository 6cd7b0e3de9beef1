// Masks: COCO's compressed run-length code to px. Runs go column by column, outside and inside in turn, the first outside.

/** The px of a mask as Uint8Array, row by row, of size [height, width]; throws where the code is damaged. */
export function decodeMask({ size: [height, width], counts }) {
  const runs = readCounts(counts);
  const mask = new Uint8Array(height * width);
  let at = 0;
  runs.forEach((run, index) => {
    if (run < 0 || at + run > mask.length) throw new RangeError("the runs of a mask do not fit its size");
    if (index % 2) for (let px = at; px < at + run; px++) mask[(px % height) * width + Math.floor(px / height)] = 1;
    at += run;
  });
  return mask;
}

function readCounts(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, place = 0, part;
    do {
      part = text.charCodeAt(at++) - 48;
      if (!(part >= 0 && part < 64) || place > 5) throw new RangeError("the code of a mask is damaged");
      value |= (part & 31) << (5 * place++);
    } while (part & 32);
    if (part & 16) value |= -1 << (5 * place);
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}
