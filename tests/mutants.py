"""Breaks the rules of billing on purpose, one place at a time, and tells what no test noticed.

Run by `make mutants`. What survives must stand in MUTANTS.md, with its reason.
"""

import argparse
import difflib
import os
import signal
import sys
from functools import partial
from pathlib import Path

import libcst
import mutmut.__main__ as mutmut
from mutmut.mutation import file_mutation
from mutmut.mutation.data import MutantLineSpans, SourceFileMutationData
from mutmut.runners.harness import PytestRunner
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

REASONS = Path(__file__).with_name("MUTANTS.md")
KILLED_PERCENT_MIN = 95

# As a rule it takes a quarter of an hour. What was noticed is kept: the next run tries the rest.
MINUTES_MAX = 60

# A test that never ends, or ends the whole run, has noticed too.
NOTICED = frozenset({"killed", "timeout", "segfault"})


def mutate_what_is_decorated() -> None:
    """Mutate properties and functions that remember their answers, which are left out else."""
    skips = file_mutation.MutationVisitor._skip_node_and_children
    arrange = file_mutation.function_trampoline_arrangement

    def skips_undecorated(visitor, node):
        if isinstance(node, libcst.FunctionDef):
            node = node.with_changes(decorators=())
        return skips(visitor, node)

    def arrange_undecorated(function, mutants, class_name):
        # The decorator belongs to what chooses among the copies, not to each of them.
        declared, (chooser, *copies), assigned, names = arrange(function, mutants, class_name)
        copies = [copy.with_changes(decorators=()) for copy in copies]
        return declared, [chooser, *copies], assigned, names

    file_mutation.MutationVisitor._skip_node_and_children = skips_undecorated
    file_mutation.function_trampoline_arrangement = arrange_undecorated


class Forgetful:
    """Lets every test compute again what an earlier one left in the memory of a function."""

    def pytest_runtest_setup(self) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("metering."):
                for value in vars(module).values():
                    if hasattr(value, "cache_clear"):
                        value.cache_clear()


def forget_between_tests() -> None:
    execute = PytestRunner.execute_pytest

    def execute_forgetfully(runner, params, plugins=()):
        return execute(runner, params, plugins=[*plugins, Forgetful()])

    PytestRunner.execute_pytest = execute_forgetfully


def forget_tests() -> None:
    """Let a mutant make again what the tests made of the unbroken code when they were imported."""
    for name in [name for name in sys.modules if name.startswith("tests.unit.")]:
        del sys.modules[name]


def survivors_of(data: SourceFileMutationData) -> list[str]:
    """Write each mutant that nothing noticed as its function, and the line before and after."""
    spans = MutantLineSpans.load(data.path)
    assert spans is not None
    survivors = []
    for mutant, exit_code in data.exit_code_by_key.items():
        status = status_by_exit_code[exit_code]
        if status in NOTICED:
            continue
        name = mutant.rpartition(".")[2]
        original = f"{name.rpartition('__mutmut_')[0]}__mutmut_orig"
        before, after = (
            [line.strip() for line in source.splitlines() if not line.strip().startswith("def ")]
            for source in spans.read_function_sources([original, name])
        )
        changes = [line for line in difflib.ndiff(before, after) if line[0] in "-+"]
        function = original.rpartition("__mutmut_")[0].removeprefix("x_").strip("xǁ")
        where = f"{Path(data.path).stem}.{function.replace('ǁ', '.')}"
        label = "" if status == "survived" else f" ({status})"
        survivors.append(f"{where}{label}: {' '.join(f'`{line}`' for line in changes)}")
    return survivors


def report() -> int:
    """Print what became of the mutants; 1 where too many survived, or one without a reason."""
    reasons = REASONS.read_text(encoding="utf-8") if REASONS.exists() else ""
    row = "| {:<11} | {:>7} | {:>6} | {:>8} | {:>9} |".format
    print(row("module", "mutants", "killed", "survived", "percent"))
    print(row("---", "--:", "--:", "--:", "--:"))
    made_of_all, survived = 0, []
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        made, found = len(data.exit_code_by_key), survivors_of(data)
        print(row(path.stem, made, made - len(found), len(found), percent(made, len(found))))
        made_of_all += made
        survived += found
    total = percent(made_of_all, len(survived))
    print(row("all", made_of_all, made_of_all - len(survived), len(survived), total))

    unexplained = [survivor for survivor in survived if survivor not in reasons]
    if unexplained:
        print(f"\nSurvived, with no reason in {REASONS.name}:\n")
        print("\n".join(f"- {survivor}" for survivor in unexplained))
    is_enough = 100 * (made_of_all - len(survived)) >= KILLED_PERCENT_MIN * made_of_all
    return int(bool(unexplained) or not is_enough)


def percent(made: int, survived: int) -> str:
    return f"{100 * (made - survived) / made:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--children", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--report", action="store_true", help="only tell what was found before")
    parser.add_argument("mutants", nargs="*", help="only these, such as 'metering.lots*'")
    arguments = parser.parse_args()

    if not arguments.report:
        # Every mutant is judged by the same examples.
        os.environ["CI"] = "true"
        mutate_what_is_decorated()
        forget_between_tests()
        os.register_at_fork(after_in_child=forget_tests)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(MINUTES_MAX * 60)
        mutmut._reset_mutant_results(lambda _, code: status_by_exit_code[code] not in NOTICED)
        run = partial(mutmut.cli, standalone_mode=False)
        run(["run", "--max-children", str(arguments.children), *arguments.mutants])
        signal.alarm(0)
    return report()


if __name__ == "__main__":
    sys.exit(main())
