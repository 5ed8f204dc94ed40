"""Breaks the rules of billing on purpose, one place at a time, and tells what no test noticed.

Run by `make mutants`. What survives must stand in MUTANTS.md, with its reason.
"""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from resource import RLIMIT_CPU, getrlimit, setrlimit
from time import process_time

import libcst
import mutmut.__main__ as mutmut
import pytest
from _pytest.runner import runtestprotocol
from hypothesis import Phase, settings
from mutmut.configuration import config
from mutmut.mutation import file_mutation
from mutmut.mutation.data import MutantLineSpans, SourceFileMutationData
from mutmut.runners.harness import ListAllTestsResult, TestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import change_cwd, walk_mutatable_files
from mutmut.workers.isolation import ForkRunner

REASONS = Path(__file__).with_name("MUTANTS.md")
KILLED_PERCENT_MIN = 95

# As a rule it takes two minutes. What was noticed is kept: the next run tries the rest.
MINUTES_MAX = 60

# How long a test may take before it is taken for one that never ends.
SECONDS_MAX, TIMES_AS_LONG_MAX = 2, 3

# Nobody reads what the tests of mutants say.
PYTEST = ("--rootdir=.", "-q", "-s", "--tb=no", "--assert=plain", "-p", "no:cacheprovider")

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


class Judge(TestRunner):
    """Runs the tests of a mutant one by one until one fails, in a pytest that is up already: to
    start one for each mutant takes ten times as long as most tests do.
    """

    def __init__(self, session: pytest.Session) -> None:
        self.items = {item.nodeid: item for item in session.items}

    def run_stats(self, *, tests: Iterable[str]) -> int:
        """Note which tests reach which functions, and what they take of the processor."""
        for test in tests or self.items:
            state()._stats.clear()
            started = process_time()
            if not self._passes(test):
                print(f"{test} fails with nothing broken")
                return 1
            state().duration_by_test[test] = process_time() - started
            for function in state()._stats:
                state().tests_by_mangled_function_name[function].add(test)
        return 0

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        for test in tests or self.items:
            if mutant_name:
                # On a busy machine only the processor's time tells what never ends.
                usual = TIMES_AS_LONG_MAX * state().duration_by_test[test]
                allowed = ceil(process_time() + SECONDS_MAX + usual)
                setrlimit(RLIMIT_CPU, (allowed, getrlimit(RLIMIT_CPU)[1]))
            if not self._passes(test):
                return 1
        return 0

    def run_forced_fail(self) -> int:
        return self.run_tests(mutant_name=None, tests=())

    def list_all_tests(self) -> ListAllTestsResult:
        return ListAllTestsResult(ids=set(self.items))

    def _passes(self, test: str) -> bool:
        forget_answers()
        reports = runtestprotocol(self.items[test], nextitem=None, log=False)
        return not any(report.failed for report in reports)


def forget_answers() -> None:
    """Let a test compute again what an earlier one left in the memory of a function."""
    for name, module in list(sys.modules.items()):
        if name.startswith("metering."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


class Run:
    """The run of mutmut within a run of pytest."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        mutmut.get_mutant_runner = lambda children: ForkRunner(children, Judge(session))
        with change_cwd(".."):
            mutmut._reset_mutant_results(lambda _, code: status_by_exit_code[code] not in NOTICED)
            signal.alarm(MINUTES_MAX * 60)
            mutmut.cli(["run", *self.arguments], standalone_mode=False)
            signal.alarm(0)
        return True


def run(arguments: list[str]) -> None:
    """Break what is chosen, and judge it by the tests that pyproject.toml chooses."""
    # Every mutant is judged by the same examples, and the first that notices is enough.
    os.environ.pop("CI", None)
    settings.register_profile("mutants", derandomize=True, deadline=None, phases=[Phase.generate])
    settings.load_profile("mutants")
    mutmut.set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.setup_source_paths()
    mutmut.create_mutants(os.cpu_count() or 1)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    tests = config().pytest_add_cli_args_test_selection
    with change_cwd("mutants"):
        pytest.main([*PYTEST, *tests], plugins=[Run(arguments)])


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
        mutate_what_is_decorated()
        run(["--max-children", str(arguments.children), *arguments.mutants])
    return report()


if __name__ == "__main__":
    sys.exit(main())
