from obsdiff.store import store


def test_what_has_no_room_goes_to_files_that_vanish():
    with store(100) as waiting:
        assert waiting.take(60) is None
        file = waiting.take(60)
        file.write_bytes(b"x")
        assert waiting.take(40) is None
        assert (waiting.used, waiting.on_disk) == (100, 60)
        waiting.give_back(60)
        waiting.give_back(60, file)
        assert (waiting.used, waiting.on_disk, file.exists()) == (40, 0, False)
        assert waiting.take(60) is None
        waiting.take(1).write_bytes(b"x")
    assert not waiting.folder.exists()
