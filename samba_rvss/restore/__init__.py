"""What is in an image, brought back: planned purely, done beneath open directories.

    plan         what becomes of each name: pure
    selection    which names are wanted: pure
    tally        what came of it, in numbers and names
    content      a file's data: shared with the image, or copied
    attributes   all else of a file: owner, mode, ACLs, attributes, times
    work         the directory where things are made before they get their names
    build        a file, or a directory with all that is in it, made there
    check        what was made, compared with the manifest or the image
    place        from there to its name, in one step
    merge        into a directory that is there already

It knows nothing of backups, shares or Samba: it gets two directories and what is to be done.
"""
