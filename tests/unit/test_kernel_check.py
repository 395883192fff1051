# SPDX-License-Identifier: GPL-2.0-only
"""The maintainer's checks, each on a series that fails it."""

from __future__ import annotations

import fakelinux
import pytest

from harness.errors import FalconError
from harness.kernel import cache, check, patches
from harness.kernel.check import Prefix, PrefixBuilder

UNUSED = "int falcon(void)\n+{\n+\tint unused;\n+"


def outcome(lab, **options):
    """Every check by name: None when it passed, else its error."""
    found = {}
    for name, make in check.all_checks(lab.series, lab.source(), whole=False, **options):
        try:
            found[name] = make()
        except FalconError as error:
            found[name] = str(error)
    return found


def test_a_good_series_passes_everything(lab):
    results = outcome(lab)
    assert [error for error in results.values() if error] == []
    assert list(results) == [
        "applies to Linux 6.12.7 without fuzz",
        "git am takes the series",
        "checkpatch --strict 0001-net-step-1.patch",
        "checkpatch --strict 0002-net-step-2.patch",
        "builds up to 0001-net-step-1.patch, CONFIG_NET_FALCON=n",
        "builds up to 0001-net-step-1.patch, CONFIG_NET_FALCON=y",
        "builds up to 0002-net-step-2.patch, CONFIG_NET_FALCON=n",
        "builds up to 0002-net-step-2.patch, CONFIG_NET_FALCON=y",
        "builds up to 0002-net-step-2.patch, CONFIG_SMP=n",
    ]


def test_checkpatch_complaints_are_passed_on(lab, capsys):
    lab.patch(fakelinux.ADD_FALCON.replace("int falcon", "int badstyle"))
    with pytest.raises(FalconError, match=r"0001-net-step-1\.patch: WARNING:STYLE: badstyle"):
        check.checkpatch(lab.source(), *patches.load(lab.series))


def test_git_am_wants_an_author(lab):
    (patch,) = lab.series.patch_dir.glob("0001*")
    patch.write_text(patch.read_text().replace("From: A Tester <tester@example.org>\n", ""))
    with pytest.raises(FalconError, match="git am refuses the series"):
        check.am_able(lab.source(), patches.load(lab.series))


def test_before_the_option_exists_a_prefix_builds_only_without(lab):
    lab.patch(fakelinux.HOOK_DEV, fakelinux.ADD_FALCON)
    found = check.prefixes(patches.load(lab.series))
    assert [(len(prefix.stack), prefix.falcon, prefix.smp) for prefix in found] == [
        (1, False, True),
        (2, False, True),
        (2, True, True),
        (2, False, False),
    ]


def test_a_prefix_that_does_not_compile_is_named(lab):
    broken = fakelinux.HOOK_DEV.replace("int hook_a(void) { return 0; }", "int hook_a(void) {")
    lab.patch(fakelinux.ADD_FALCON, broken)
    results = outcome(lab)
    failed = [name for name, error in results.items() if error]
    assert failed == [name for name in results if name.startswith("builds up to 0002")]


def test_what_compiles_for_several_cpus_alone_is_named(lab):
    (lab.fragments / "guest.config").write_text("CONFIG_NET=y\nCONFIG_RPS=y\n")
    needs_rps = "#ifndef CONFIG_RPS\n+#error no RPS\n+#endif\n+int hook_a(void) { return 0; }"
    hook = fakelinux.HOOK_DEV.replace("int hook_a(void) { return 0; }", needs_rps)
    lab.patch(
        fakelinux.ADD_FALCON, hook.replace("-4,4 +4,5", "-4,4 +4,8").replace("+31,5", "+34,5")
    )
    failed = [name for name, error in outcome(lab).items() if error]
    assert failed == ["builds up to 0002-net-step-2.patch, CONFIG_SMP=n"]


def test_a_new_warning_fails_and_is_quoted(lab):
    lab.patch(
        fakelinux.ADD_FALCON.replace("int falcon(void)\n+{\n+", UNUSED).replace(
            "-0,0 +1,4", "-0,0 +1,5"
        )
    )
    builder = PrefixBuilder(lab.series, lab.source())
    stack = patches.load(lab.series)
    with pytest.raises(FalconError, match=r"new warnings .*falcon\.c.*unused variable"):
        builder.check(Prefix(stack, falcon=True))
    builder.check(Prefix(stack, falcon=False))


def test_a_warning_of_the_unpatched_kernel_is_not_new_though_its_line_moves(lab):
    dev = lab.tree / "net/core/dev.c"
    dev.write_text(dev.read_text() + "int old(void)\n{\n\tint unused;\n\n\treturn 0;\n}\n")
    outcomes = outcome(lab)
    assert [error for error in outcomes.values() if error] == []


def test_what_make_compiles_of_its_own_is_not_the_series(lab):
    makefile = lab.tree / "Makefile"
    rule = "net/core/%.o: $(O)/net/core/%.o ;"
    assert rule in makefile.read_text()
    makefile.write_text(
        makefile.read_text().replace(rule, "net/core/%.o: $(O)/init/main.o $(O)/net/core/%.o ;")
    )
    main = lab.tree / "init/main.c"
    main.write_text(main.read_text().replace("{\n", "{\n\tint unused;\n"))
    outcomes = outcome(lab)
    assert [error for error in outcomes.values() if error] == []


def test_what_passed_is_not_compiled_again(lab, monkeypatch):
    outcome(lab)
    monkeypatch.setattr(PrefixBuilder, "_warnings", lambda *_: pytest.fail("compiled again"))
    outcome(lab)


def test_the_checks_leave_the_builds_tree_alone(lab):
    build_tree = patches.patched_tree(lab.series, lab.source())
    before = (build_tree / "net/core/dev.c").stat().st_mtime_ns
    outcome(lab)
    assert (build_tree / "net/core/dev.c").stat().st_mtime_ns == before


def test_clean_removes_builds_and_keeps_images_and_sources(lab, cache_home):
    from harness.kernel.build import build

    image = build(lab.series, source=lab.source(), jobs=1)
    cache.clean(everything=False)
    assert not (cache_home / "builds").exists()
    assert image.bzimage.exists()
    cache.clean(everything=True)
    assert [path.name for path in cache_home.iterdir()] == ["locks"]
