"""MS-FSRVP, the File Server Remote VSS Protocol, from the requestor's side.

Place: for the demonstration, the tests and whatever else takes shadow copies as a client.
`methods` are the protocol's, one each; `client` sends them over a connection; `copyset` is a
client's way through a shadow copy set; `ndr` and `results` are what the methods need. Source of the
layouts and the numbers: Samba, librpc/idl/fsrvp.idl; MS-FSRVP 3.1.4.
"""
