# SPDX-License-Identifier: GPL-2.0-only
"""A kernel tree that builds in milliseconds.

It answers the targets the harness makes, with the messages a real one gives:
a small Makefile, real C files, a Kconfig that knows a few options, and patches
against them. No stand-in for make, git or the compiler: those are the real ones.
"""

from __future__ import annotations

from pathlib import Path

MAKEFILE = """\
VERSION = {version}
PATCHLEVEL = {patchlevel}
SUBLEVEL = {sublevel}
EXTRAVERSION =

SOURCES := $(wildcard init/*.c net/core/*.c)
OBJECTS := $(SOURCES:%.c=$(O)/%.o)
WARN := $(if $(W),-Wall -Wextra)

tinyconfig:
	@mkdir -p $(O) && echo "CONFIG_TINY=y" > $(O)/.config

olddefconfig:
	@sed -n 's/^config \\(.*\\)/CONFIG_\\1=/p' Kconfig > $(O)/.known
	@grep -F -f $(O)/.known $(O)/.config > $(O)/.new; mv $(O)/.new $(O)/.config

localmodconfig:
	@cp $(LSMOD) $(O)/was-loaded

all: bzImage
	@$(CC) -shared -nostdlib -Wl,--build-id=sha1 -o $(O)/vmlinux $(OBJECTS)
	@cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage

bindeb-pkg:
	@echo "  PACKAGE $(KDEB_PKGVERSION)"
	@release=$$(cat $(O)/include/config/kernel.release); root=$(O)/debian; rm -rf $$root; \\
	for part in image image-dbg; do \\
		name=linux-$${{part%-dbg}}-$$release$${{part#image}}; \\
		mkdir -p $$root/$$part/DEBIAN $$root/$$part/boot; \\
		cp $(O)/arch/x86/boot/bzImage $$root/$$part/boot/vmlinuz-$$release; \\
		printf '%s\\n' "Package: $$name" "Version: 1" "Architecture: amd64" \\
			"Maintainer: A Tester <a@example.org>" "Installed-Size: 77" "Description: x" \\
			> $$root/$$part/DEBIAN/control; \\
		dpkg-deb --build $$root/$$part $(O)/../$${{name}}_1_amd64.deb >/dev/null; \\
	done; $(FAIL)

bzImage: $(OBJECTS)
	@mkdir -p $(O)/arch/x86/boot $(O)/include/config
	@cat $(OBJECTS) > $(O)/vmlinux
	@echo "  BUILD   arch/x86/boot/bzImage"
	@cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
	@echo "{version}.{patchlevel}.{sublevel}$(LOCALVERSION)" > $(O)/include/config/kernel.release

net/core/%.o: $(O)/net/core/%.o ;

$(O)/%.o: %.c
	@mkdir -p $(@D); echo "  CC      $*.o"
	@$(CC) $(WARN) $$(sed -n 's/^\\(CONFIG_[A-Z_]*\\)=y/-D\\1/p' $(O)/.config) -c -o $@ $<

.PHONY: tinyconfig olddefconfig localmodconfig bzImage all bindeb-pkg
"""

KCONFIG = """\
config TINY
config NET
config RPS
"""

MERGE_CONFIG = """\
#!/bin/sh
# -m -O DIRECTORY BASE FRAGMENT...
out=$3; shift 3
cat "$@" > "$out/.merged" && mv "$out/.merged" "$out/.config"
"""

CHECKPATCH = """\
#!/bin/sh
for last; do :; done
if grep -q '^+.*badstyle' "$last"; then
    echo "WARNING:STYLE: badstyle is bad style"; exit 1
fi
"""

DEV_C = "".join(f"int line_{n}(void) {{ return {n}; }}\n" for n in range(1, 41))

MAIN_C = """\
int start(void)
{
	return 0;
}
"""


def write(directory: Path, files: dict[str, str]) -> Path:
    """Write ``files`` (path: text) below ``directory``; scripts become executable."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)
    return directory


def make_tree(directory: Path, version: str = "6.12.7") -> Path:
    """A fake kernel tree of ``version`` in ``directory``."""
    major, minor, sub = version.split(".")
    makefile = MAKEFILE.format(version=major, patchlevel=minor, sublevel=sub)
    return write(
        directory,
        {
            "Makefile": makefile,
            "Kconfig": KCONFIG,
            "init/main.c": MAIN_C,
            "net/core/dev.c": DEV_C,
            "scripts/kconfig/merge_config.sh": MERGE_CONFIG,
            "scripts/checkpatch.pl": CHECKPATCH,
        },
    )


def mail(number: int, subject: str, diff: str) -> tuple[str, str]:
    """A patch as ``git format-patch`` writes it: its file name and text."""
    name = f"{number:04}-{subject.replace(' ', '-')}.patch"
    text = f"""\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: A Tester <tester@example.org>
Date: Mon, 23 Nov 2026 00:00:00 +0000
Subject: [PATCH] {subject}

The reason for it.

Signed-off-by: A Tester <tester@example.org>
---
{diff}"""
    return name, text


ADD_FALCON = """\
diff --git a/Kconfig b/Kconfig
--- a/Kconfig
+++ b/Kconfig
@@ -1,3 +1,4 @@
 config TINY
 config NET
 config RPS
+config NET_FALCON
diff --git a/net/core/falcon.c b/net/core/falcon.c
new file mode 100644
--- /dev/null
+++ b/net/core/falcon.c
@@ -0,0 +1,4 @@
+int falcon(void)
+{
+	return 1;
+}
"""

HOOK_DEV = """\
diff --git a/net/core/dev.c b/net/core/dev.c
--- a/net/core/dev.c
+++ b/net/core/dev.c
@@ -4,4 +4,5 @@
 int line_4(void) { return 4; }
 int line_5(void) { return 5; }
+int hook_a(void) { return 0; }
 int line_6(void) { return 6; }
 int line_7(void) { return 7; }
@@ -30,4 +31,5 @@
 int line_30(void) { return 30; }
 int line_31(void) { return 31; }
+int hook_b(void) { return 0; }
 int line_32(void) { return 32; }
 int line_33(void) { return 33; }
"""


def write_patches(directory: Path, *diffs: str) -> Path:
    """Write ``diffs`` as a series into ``directory``, which holds nothing else then."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.patch"):
        old.unlink()
    for number, diff in enumerate(diffs, start=1):
        name, text = mail(number, f"net step {number}", diff)
        (directory / name).write_text(text)
    return directory
