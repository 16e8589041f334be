"""The `ufm` command, as a terminal runs it."""

from ufm.cli import main


def run(*arguments):
    return main([str(argument) for argument in arguments])


def assert_refused(capsys, said, *arguments):
    """Exit code 2 and one line that says why."""
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("ufm: ")
    assert error.count("\n") == 1
    assert said in error
