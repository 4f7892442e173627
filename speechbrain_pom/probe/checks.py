"""What a probe's options and data must be, said before anything is encoded."""

from collections.abc import Sequence

from speechbrain_pom.utils.errors import UserError


def check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise UserError(f"{key} is {value!r}: choose {' or '.join(choices)}")


def check_shares(shares: dict[str, float]) -> None:
    """Refuse shares that would leave less than half for training."""
    for name, share in shares.items():
        if not isinstance(share, (int, float)) or not 0 <= share < 0.5:
            raise UserError(f"{name}_share is {share!r}: give a share, 0 <= x < 0.5")


def check_keywords(keywords: list[str] | None) -> None:
    """Refuse the keyword task without keywords."""
    if not keywords:
        raise UserError(
            "keywords is null: the keyword task in LibriSpeech's layout needs the words to tell "
            "apart, as --keywords '[YES, NO]'"
        )


def check_parts(parts: dict[str, list[dict]], trials: list[dict], task: str) -> None:
    """Refuse parts that are empty or have classes that training does not have."""
    trained = {row["label"] for row in parts["train"]}
    if len(trained) < 2:
        raise UserError(
            f"the training utterances are of {len(trained)} class(es): a {task} probe needs two "
            "at least"
        )
    both = sorted(trained & {row["label"] for row in trials})
    if both:
        raise UserError(
            f"the data for verification have speaker {both[0]!r}, who is in training too: give "
            "utterances of other speakers"
        )
    for name, rows in parts.items():
        if not rows:
            raise UserError(
                f"no utterance is left for '{name}': give more data, other splits, or larger "
                "valid_share and test_share"
            )
        unknown = sorted({row["label"] for row in rows} - trained)
        if unknown:
            raise UserError(
                f"'{name}' has utterances of {', '.join(unknown[:5])}, and training has none: "
                "remove them, or leave them out by --keywords"
            )


def check_ids(rows: dict[str, list[dict]]) -> None:
    """Refuse an ID that two sets have: encoded utterances are kept by their IDs."""
    owners = {}
    for name, group in rows.items():
        for row in group:
            other = owners.setdefault(row["ID"], name)
            if other != name:
                raise UserError(
                    f"ID '{row['ID']}' is both in '{other}' and in '{name}': utterances of "
                    "different sets need IDs of their own"
                )
