from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hsm.shared.logs import Secret
from hsm.store.sealing import Place
from hsm.store.tally import Tallier, Tally

TALLIER = Tallier(Secret(b"m" * 32), b"c" * 16)
places = st.builds(
    Place, st.sampled_from(["keys/a", "keys/b", "labels/a"]), st.integers(1, 5), st.just(1), st.booleans()
)


@given(st.lists(places, max_size=8, unique=True), st.lists(places, max_size=8, unique=True))
def test_a_tally_counts_the_rows_it_was_made_for_and_no_others(rows: list[Place], others: list[Place]) -> None:
    tally = TALLIER.empty()
    for place in rows:
        tally = TALLIER.after(tally, [], [place])
    assert tally.revision == len(rows)
    assert TALLIER.is_genuine(tally)
    assert TALLIER.counts(tally, reversed(rows))
    assert TALLIER.counts(tally, others) == (set(others) == set(rows))


def test_a_row_gives_way_to_another() -> None:
    old, new = Place("keys/a", 1, 1, True), Place("keys/a", 2, 2, False)
    tally = TALLIER.after(TALLIER.after(TALLIER.empty(), [], [old]), [old], [new])
    assert TALLIER.counts(tally, [new])
    for wrong in ([old], [old, new], [], [new, new]):
        assert not TALLIER.counts(tally, wrong)


def test_only_the_master_key_makes_a_genuine_tally() -> None:
    tally = TALLIER.after(TALLIER.empty(), [], [Place("keys/a", 1, 1, True)])
    for forged in (
        replace(tally, revision=2),
        replace(tally, revision=-1),
        replace(tally, revision=2**70),
        replace(tally, total=bytes(32)),
        replace(tally, total=b"x" * 40),
        replace(tally, seal=b""),
        Tally(1, tally.total, TALLIER.empty().seal),
    ):
        assert not TALLIER.is_genuine(forged)
    for other in (Tallier(Secret(b"n" * 32), b"c" * 16), Tallier(Secret(b"m" * 32), b"d" * 16)):
        assert not other.is_genuine(tally)


def test_tallies_of_the_first_format_are_still_genuine() -> None:
    tallier = Tallier(Secret(bytes(range(32))), bytes(range(16)))
    tally = Tally(
        1,
        bytes.fromhex("a6c39d8b4869228bd5586430e7603bbfcebfd0e1acddaba87d35de374e1c67d4"),
        bytes.fromhex("a61a5b670bb31dc112e91908c9386b7f4ccacd3ebd5092b86768c3697c1120b8"),
    )
    assert tallier.is_genuine(tally)
    assert tallier.counts(tally, [Place("keys/a", 2, 3, True)])
