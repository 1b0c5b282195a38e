/** The RPM package, for Fedora and its kin. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Release } from './build.ts';
import type { PackageOptions } from './deb.ts';
import { MAINTAINER, stage } from './stage.ts';

const ARCHITECTURES: Partial<Record<NodeJS.Architecture, string>> = { x64: 'x86_64', arm64: 'aarch64' };

function architecture(): string {
  const name = ARCHITECTURES[process.arch];
  if (!name) throw new Error(`no RPM architecture for ${process.arch}`);
  return name;
}

export const rpmName = (version: string): string => `sluice-${version}-1.${architecture()}.rpm`;

/** Makes the package; the result is its path. Needs rpmbuild. */
export function makeRpm(release: Release, { out, work, epoch, level }: PackageOptions): string {
  const root = join(work, 'rpm-files');
  const top = join(work, 'rpm');
  mkdirSync(top, { recursive: true });
  stage(release, root, { units: 'usr/lib/systemd/system', zshCompletions: 'usr/share/zsh/site-functions' }, epoch);
  const spec = join(top, 'sluice.spec');
  writeFileSync(spec, specFile(release, root));
  const define = (macro: string) => ['--define', macro];
  execFileSync(
    'rpmbuild',
    [
      '-bb',
      `--target=${architecture()}`,
      '--quiet',
      ...define(`_topdir ${top}`),
      ...define(`_rpmdir ${top}/out`),
      ...define('_buildhost localhost'),
      ...define('use_source_date_epoch_as_buildtime 1'),
      ...define('clamp_mtime_to_source_date_epoch 1'),
      ...define(`_binary_payload w${level}.xzdio`),
      spec,
    ],
    { env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) }, stdio: ['ignore', 'ignore', 'inherit'] },
  );
  const made = join(top, 'out', architecture());
  const [name] = readdirSync(made).filter((file) => file.endsWith('.rpm'));
  if (!name) throw new Error(`rpmbuild left no package in ${made}`);
  const file = join(out, rpmName(release.version));
  renameSync(join(made, name), file);
  return file;
}

/** %{?dist} and the build's scripts that would change files (strip, byte-compile) are left out: the files are final. */
function specFile({ version }: Release, root: string): string {
  return `%global __os_install_post %{nil}
%global debug_package %{nil}
%global _build_id_links none
%global __brp_check_rpaths %{nil}

Name: sluice
Version: ${version}
Release: 1
Summary: Kubernetes CRI runtime with every launch bounded and measured
License: Apache-2.0
Packager: ${MAINTAINER}
AutoReqProv: no
Requires: glibc >= 2.28, libstdc++, libgcc
Requires: runc
Requires: containernetworking-plugins
Requires: (iptables or nftables)
Recommends: containerd
Recommends: crun
Recommends: kmod

%description
Sluice is the container runtime of one Kubernetes node: kubelet and crictl speak to it over a unix socket, it pulls
images, makes pod networks through CNI plugins and starts containers with runc or crun through containerd's shim.

%install
mkdir -p %{buildroot}
cp -a ${root}/. %{buildroot}/

%files
%config(noreplace) /etc/sluice/config.toml
%dir /etc/sluice
%dir /etc/sluice/conf.d
/usr/bin/sluice
/usr/sbin/sluiced
/usr/lib/sluice
/usr/lib/systemd/system/sluiced.service
/usr/lib/systemd/system/sluiced.socket
/usr/share/doc/sluice
/usr/share/man/man1/sluice.1.gz
/usr/share/man/man5/sluice.toml.5.gz
/usr/share/man/man8/sluiced.8.gz
/usr/share/bash-completion/completions/sluice
/usr/share/zsh/site-functions/_sluice
/usr/share/fish/vendor_completions.d/sluice.fish

%post
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || :
  if [ "$1" -gt 1 ]; then systemctl try-restart sluiced.service || :; fi
fi
if ! command -v containerd-shim-runc-v2 >/dev/null; then
  echo "sluice: containerd-shim-runc-v2 is missing: pods cannot start until a package that has it is installed (containerd)" >&2
fi

%preun
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
  systemctl --no-reload disable --now sluiced.socket sluiced.service || :
fi
# What keeps the built-in network is said, and is no reason to stay installed.
if [ "$1" -eq 0 ]; then sluice network remove >/dev/null || :; fi

%postun
if [ -d /run/systemd/system ]; then systemctl daemon-reload || :; fi
`;
}
