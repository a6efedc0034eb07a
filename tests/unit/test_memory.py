"""What a worker has in memory, as it tells it: the sets that were begun, and their renewals."""

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.memory import HeldSet, Memory, parse

SET = "53ef7fe9-cfd7-4e4f-a33d-0a8753eee8b3"
COPY = "ea5bd7af-6648-446d-aa1b-ef838781cab9"
OLD = "0f0e0d0c-0b0a-4908-8706-050403020100"

BEFORE = """\
full talloc report on 'null_context' (total  53821 bytes in 600 blocks)
    struct messaging_context       contains   2113 bytes in  20 blocks (ref 0) 0x55d8ba0c0010
        char                           contains      7 bytes in   1 blocks (ref 0): a text
"""
AFTER = """\
    dcesrv remote arch             contains      9 bytes in   1 blocks (ref 0) 0x55d8ba0c9590
        struct fss_sc_set              contains    101 bytes in   2 blocks (ref 0) 0x55d8ba0d7750
mallinfo:
    arena: 1
"""
NOTHING = """\
    parent fss rpc server ctx      contains    221 bytes in   5 blocks (ref 0) 0x55d8ba0c9590
        /run/samba/srv_fss.tdb         contains     42 bytes in   1 blocks (ref 0) 0x55d8ba0cbb70
"""
STARTED = f"""\
    parent fss rpc server ctx      contains    221 bytes in   5 blocks (ref 0) 0x55d8ba0c9590
        struct tevent_timer            contains    104 bytes in   1 blocks (ref 0) 0x55d8ba0d7680
        struct GUID                    contains     16 bytes in   1 blocks (ref 0) 0x55d8ba0d5f40
        struct fss_sc_set              contains    101 bytes in   2 blocks (ref 0) 0x55d8ba0d7750
            {SET} contains     37 bytes in   1 blocks (ref 0) 0x55d8ba0dbe40
"""
ADDED = f"""\
    parent fss rpc server ctx      contains    490 bytes in  12 blocks (ref 0) 0x55d8ba0c9590
        struct tevent_timer            contains    104 bytes in   1 blocks (ref 0) 0x55d8ba0d7680
        struct GUID                    contains     16 bytes in   1 blocks (ref 0) 0x55d8ba0dd030
        struct GUID                    contains     16 bytes in   1 blocks (ref 0) 0x55d8ba0d5f40
        struct fss_sc_set              contains    354 bytes in   8 blocks (ref 0) 0x55d8ba0d7750
            struct fss_sc                  contains    253 bytes in   6 blocks (ref 0) 0x55d8ba0dcd
                struct fss_sc_smap             contains     95 bytes in   3 blocks (ref 0) 0x55d8ba
                    My VMs@{{{COPY}}} contains     43 bytes in   1 blocks (ref 0) 0x55d8ba0ddb80
                    My VMs                         contains      4 bytes in   1 blocks (ref 0) 0x55
                {COPY} contains     37 bytes in   1 blocks (ref 0) 0x55d8ba0dc970
                /srv/My VMs contains     33 bytes in   1 blocks (ref 0) 0x55d8ba0dcfa0
            struct fss_sc                  contains    253 bytes in   6 blocks (ref 0) 0x55d8ba0dcd
                struct fss_sc_smap             contains     95 bytes in   3 blocks (ref 0) 0x55d8ba
                    sql$@{{{COPY}}}$ contains     43 bytes in   1 blocks (ref 0) 0x55d8ba0ddb80
                    sql$                           contains      4 bytes in   1 blocks (ref 0) 0x55
            {SET} contains     37 bytes in   1 blocks (ref 0) 0x55d8ba0dbe40
        struct fss_sc_set              contains    101 bytes in   2 blocks (ref 0) 0x55d8ba0d7750
            {OLD} contains     37 bytes in   1 blocks (ref 0) 0x55d8ba0dbe40
"""
READ = f"""\
    parent fss rpc server ctx      contains    490 bytes in  12 blocks (ref 0) 0x55d8ba0c9590
        talloc_new: ../srv_fss_state.c:617 contains    302 bytes in   9 blocks (ref 0) 0x55d
            struct fss_sc_set              contains    354 bytes in   8 blocks (ref 0) 0x55d8ba0d775
                struct fss_sc                  contains    253 bytes in   6 blocks (ref 0) 0x55d8ba0
                    struct fss_sc_smap             contains     95 bytes in   3 blocks (ref 0) 0x55d
                        sc_set/{SET}/sc/{COPY}/smap/vms@{{id}} contains 43 bytes in 1 blocks (ref 0)
                        vms                            contains      4 bytes in   1 blocks (ref 0) 0
                    /srv/vms                       contains     33 bytes in   1 blocks (ref 0) 0x55d
                    sc_set/{SET}/sc/{COPY} contains     37 bytes in   1 blocks (ref 0) 0x55d8ba0dc97
                sc_set/{SET} contains     37 bytes in   1 blocks (ref 0) 0x55d8ba0dbe40
"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (NOTHING, Memory(sets=(), renewals=0)),
        (STARTED, Memory(sets=(HeldSet(id=SET),), renewals=1)),
        (
            ADDED,
            Memory(sets=(HeldSet(id=SET, shares=("My VMs", "sql$")), HeldSet(id=OLD)), renewals=2),
        ),
        (READ, Memory(sets=(HeldSet(id=SET, shares=("vms",)),), renewals=0)),
    ],
    ids=["nothing", "started", "added", "read from the file"],
)
def test_what_a_worker_tells(said: str, expected: Memory) -> None:
    assert parse(BEFORE + said + AFTER) == expected


@pytest.mark.parametrize(
    "said",
    ["", BEFORE + AFTER, BEFORE + STARTED + NOTHING + AFTER, STARTED.replace(SET, "no id")],
    ids=["silent", "another process", "two agents", "a set without an id"],
)
def test_what_proves_nothing(said: str) -> None:
    """A client's text could look like a second agent's sets."""
    with pytest.raises(RvssError) as caught:
        parse(said)
    assert caught.value.problem is Problem.SAMBA
