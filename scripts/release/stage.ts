/**
 * The files of a package as they will lie on a node, below a folder: the same tree for .deb, .rpm and whoever unpacks
 * by hand.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { COMMANDS, GROUPS } from '../../src/main/cli/commands.ts';
import { completionScript, SHELLS, type Shell } from '../../src/main/cli/completion.ts';
import { type Release, ROOT } from './build.ts';
import { manualPages } from './man.ts';

/** Folders whose place differs between distributions. */
export interface Places {
  units: string;
  zshCompletions: string;
}

/** Writes the tree below `root`, which is emptied first, with every time at `epoch` seconds. */
export function stage(release: Release, root: string, places: Places, epoch: number): void {
  rmSync(root, { recursive: true, force: true });
  const put = (path: string, content: string | Buffer, mode = 0o644) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
    chmodSync(join(root, path), mode);
  };
  const link = (path: string, target: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    symlinkSync(target, join(root, path));
  };
  mkdirSync(join(root, 'usr/lib'), { recursive: true });
  cpSync(release.folder, join(root, 'usr/lib/sluice'), { recursive: true });
  link('usr/sbin/sluiced', '../lib/sluice/bin/sluiced');
  link('usr/bin/sluice', '../lib/sluice/bin/sluice');
  for (const unit of ['sluiced.service', 'sluiced.socket'])
    put(join(places.units, unit), readFileSync(join(ROOT, 'packaging/systemd', unit)));
  put('etc/sluice/config.toml', readFileSync(join(ROOT, 'packaging/config.toml')));
  mkdirSync(join(root, 'etc/sluice/conf.d'), { recursive: true });
  for (const { path, text } of manualPages(release.version, epoch))
    put(`usr/share/man/${path}.gz`, gzipSync(text, { level: 9 }));
  const completions: Record<Shell, string> = {
    bash: 'usr/share/bash-completion/completions/sluice',
    zsh: `${places.zshCompletions}/_sluice`,
    fish: 'usr/share/fish/vendor_completions.d/sluice.fish',
  };
  for (const shell of SHELLS) put(completions[shell], completionScript(shell, COMMANDS, GROUPS));
  put('usr/share/doc/sluice/copyright', copyright(release));
  put('usr/share/doc/sluice/changelog.gz', gzipSync(changelog(release.version, epoch), { level: 9 }));
  same(root, epoch);
}

/** Times and modes that do not depend on who built it, where and when. */
export function same(root: string, epoch: number): void {
  const entries = readdirSync(root, { recursive: true, withFileTypes: true });
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) chmodSync(path, 0o755);
    else if (entry.isFile()) chmodSync(path, lstatSync(path).mode & 0o100 ? 0o755 : 0o644);
    lutimesSync(path, epoch, epoch);
  }
  chmodSync(root, 0o755);
  lutimesSync(root, epoch, epoch);
}

/** KiB on disk, as Debian counts them. */
export function installedKib(root: string): number {
  let kib = 0;
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    kib += entry.isFile() ? Math.ceil(lstatSync(join(entry.parentPath, entry.name)).size / 1024) : 1;
  }
  return kib;
}

/** Debian's machine-readable copyright file; the texts of all licences are in the package as well. */
function copyright({ packages }: Release): string {
  const bundled = packages.map(({ name, version, license }) => ` ${name} ${version} (${license})`).join('\n');
  return `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: sluice
Comment:
 /usr/lib/sluice contains these packages, each with its licence's text in /usr/lib/sluice/licenses:
${bundled}

Files: *
Copyright: 2026 the Sluice authors
License: Apache-2.0
 The full text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0 on Debian systems, and in
 /usr/lib/sluice/licenses.
`;
}

function changelog(version: string, epoch: number): string {
  const date = execFileSync('date', ['-u', '-R', '-d', `@${epoch}`], { env: { ...process.env, LC_ALL: 'C' } });
  return `sluice (${version}) unstable; urgency=medium

  * Release ${version}; CHANGELOG.md of the repository says what changed.

 -- ${MAINTAINER}  ${date.toString().trim()}
`;
}

export const MAINTAINER = 'Sluice maintainers <maintainers@sluice.invalid>';
