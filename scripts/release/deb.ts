/** The Debian package. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { builtinBridge } from '../../src/node/network/builtin.ts';
import { type Release, ROOT } from './build.ts';
import type { RuntimeDependency } from './sbom.ts';
import { installedKib, MAINTAINER, same, stage } from './stage.ts';

/** What Debian calls this machine. */
const ARCHITECTURES: Partial<Record<NodeJS.Architecture, string>> = { x64: 'amd64', arm64: 'arm64' };

/** glibc as new as Node's own builds want it. */
const DEPENDS = [
  'libc6 (>= 2.28)',
  'libgcc-s1',
  'libstdc++6 (>= 8)',
  'init-system-helpers (>= 1.52)',
  'runc',
  'containernetworking-plugins',
  'iptables | nftables',
];
/** containerd brings the shim. Its daemon is another one, which need not run. */
const RECOMMENDS = ['containerd | containerd.io', 'crun', 'kmod'];
const SUGGESTS = ['cri-tools', 'apparmor'];

export const RUNTIME_DEPENDENCIES: RuntimeDependency[] = [
  { name: 'runc', required: true },
  { name: 'containernetworking-plugins', required: true },
  { name: 'iptables', required: true },
  { name: 'containerd', required: false },
  { name: 'crun', required: false },
];

export interface PackageOptions {
  /** Folder for the package, and for what is needed to make it. */
  out: string;
  work: string;
  /** Seconds since 1970 that stand for every time in it. */
  epoch: number;
  /** Of xz: 0 is quick, 6 what a release has. */
  level: number;
}

function architecture(): string {
  const name = ARCHITECTURES[process.arch];
  if (!name) throw new Error(`no Debian architecture for ${process.arch}`);
  return name;
}

export const debName = (version: string): string => `sluice_${version}_${architecture()}.deb`;

/** Makes the package; the result is its path. Needs dpkg-deb. */
export function makeDeb(release: Release, { out, work, epoch, level }: PackageOptions): string {
  const root = join(work, 'deb');
  stage(release, root, { units: 'lib/systemd/system', zshCompletions: 'usr/share/zsh/vendor-completions' }, epoch);
  const overrides = join(root, 'usr/share/lintian/overrides');
  mkdirSync(overrides, { recursive: true });
  copyFileSync(join(ROOT, 'packaging/deb/lintian-overrides'), join(overrides, 'sluice'));
  const size = installedKib(root);
  const sums = md5sums(root);

  const control = join(root, 'DEBIAN');
  mkdirSync(control);
  writeFileSync(
    join(control, 'control'),
    `Package: sluice
Version: ${release.version}
Architecture: ${architecture()}
Maintainer: ${MAINTAINER}
Installed-Size: ${size}
Depends: ${DEPENDS.join(', ')}
Recommends: ${RECOMMENDS.join(', ')}
Suggests: ${SUGGESTS.join(', ')}
Provides: cri-runtime
Section: admin
Priority: optional
Description: Kubernetes CRI runtime with every launch bounded and measured
 Sluice is the container runtime of one Kubernetes node: kubelet and crictl
 speak to it over a unix socket, it pulls images, makes pod networks through
 CNI plugins and starts containers with runc or crun through containerd's shim.
 .
 Every launch goes through a bounded pipeline, and every stage of every launch
 is measured for Prometheus.
`,
  );
  writeFileSync(join(control, 'md5sums'), sums);
  writeFileSync(join(control, 'conffiles'), '/etc/sluice/config.toml\n');
  same(root, epoch);
  for (const script of ['postinst', 'prerm', 'postrm']) {
    const text = readFileSync(join(ROOT, 'packaging/deb', script), 'utf8');
    writeFileSync(join(control, script), text.replaceAll('@BRIDGE@', builtinBridge('/var/lib/sluice')));
    chmodSync(join(control, script), 0o755);
  }
  const file = join(out, debName(release.version));
  // With one thread xz makes one stream, the same on every machine.
  execFileSync('dpkg-deb', ['--root-owner-group', '--threads-max=1', '-Zxz', `-z${level}`, '--build', root, file], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return file;
}

function md5sums(root: string): string {
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter((file) => !file.startsWith('etc/')) // dpkg keeps those of conffiles itself
    .sort();
  return files.map((file) => `${md5(join(root, file))}  ${file}\n`).join('');
}

const md5 = (file: string) => createHash('md5').update(readFileSync(file)).digest('hex');
