"""`foodray keys`: make, list and revoke the API keys of an endpoint."""

from typing import Annotated, Any

import tyro
from tyro.conf import Positional

LocationArg = Annotated[Positional[str], tyro.conf.arg(metavar="LOCATION")]
KeyIdArg = Annotated[Positional[str], tyro.conf.arg(metavar="KEY_ID")]


def keys_help() -> None:
    """Make, list and revoke the API keys of an endpoint: foodray keys --help."""


def keys(arguments: list[str]) -> None:
    """Run `foodray keys add`, `list` or `revoke`."""
    from foodray.serving.access import Scope, add_key, read_keys, revoke_key

    def add(location: LocationArg, name: str, scopes: tuple[Scope, ...], study: str = "", requests_per_minute: float | None = None) -> None:
        """Make a key and print its token, which is shown this once.

        Args:
            location: Folder of keys, local or s3://; the `keys` of the endpoint's settings.
            name: Who or what uses the key: a tablet, a data manager.
            scopes: What it may do; admin may do all.
            study: The study it belongs to.
            requests_per_minute: Its own rate, by default that of the endpoint.
        """
        print(add_key(location, name, scopes, study, requests_per_minute))

    def list_(location: LocationArg) -> None:
        """List the keys of a folder; tokens and secrets are not among what is stored.

        Args:
            location: Folder of keys, local or s3://.
        """
        for key in read_keys(location):
            state = f"revoked {key.revoked_at}" if key.revoked_at else "good"
            rate = f", {key.requests_per_minute:g} requests a minute" if key.requests_per_minute else ""
            study = f", study {key.study}" if key.study else ""
            print(f"{key.key_id}  {key.name}: {' '.join(key.scopes)}{study}{rate}, made {key.created_at}, {state}")

    def revoke(location: LocationArg, key_id: KeyIdArg) -> None:
        """Make a key useless, now and for good; a running endpoint learns of it within seconds.

        Args:
            location: Folder of keys, local or s3://.
            key_id: The 8 hex digits after `foodray_` in its token.
        """
        key = revoke_key(location, key_id)
        print(f"{key.key_id}  {key.name}: revoked {key.revoked_at}")

    commands: dict[str, Any] = {"add": add, "list": list_, "revoke": revoke}
    tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog="foodray keys", description="Make, list and revoke the API keys of an endpoint.")
