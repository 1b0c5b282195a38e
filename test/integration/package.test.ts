/** The packages of a release: the same bytes each time, what they say they are, and clean for lintian. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makePackages, type Packages } from '../../scripts/release/package.ts';
import { sharedPackages } from '../rig/packages.ts';
import { findProgram, privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';

const missing = ['dpkg-deb', 'rpmbuild', 'lintian', 'strip'].filter((name) => !findProgram(name));
const skip = missing.length > 0 ? `needs ${missing.join(', ')} (sh scripts/setup.sh --package)` : false;

describe('packages', { skip }, () => {
  let folder: string;
  let made: Packages;
  before(async () => {
    folder = privateFolder('sluice-pkg');
    made = await sharedPackages();
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('two builds have the same bytes', async () => {
    const again = await makePackages({ out: join(folder, 'another-place', 'two'), quick: true });
    assert.equal(readFileSync(again.sums, 'utf8'), readFileSync(made.sums, 'utf8'));
  });

  test('the sums are of the files, four of them', async () => {
    const { stdout } = await run('sha256sum', ['-c', 'SHA256SUMS'], { cwd: dirname(made.sums) });
    assert.equal(stdout.match(/: OK$/gm)?.length, 4);
  });

  test('the .deb has daemon, tool, unit and configuration, and wants what a pod needs', async () => {
    const { stdout: files } = await run('dpkg-deb', ['-c', made.deb]);
    for (const path of [
      'usr/lib/sluice/node',
      'usr/lib/sluice/lib/koffi.node',
      'usr/sbin/sluiced -> ../lib/sluice/bin/sluiced',
      'usr/bin/sluice -> ../lib/sluice/bin/sluice',
      'lib/systemd/system/sluiced.service',
      'lib/systemd/system/sluiced.socket',
      'etc/sluice/config.toml',
      'etc/sluice/conf.d/',
    ])
      assert.match(files, new RegExp(`root/root .* \\./${path.replaceAll('.', '\\.')}$`, 'm'));
    const { stdout: fields } = await run('dpkg-deb', ['-f', made.deb]);
    assert.match(fields, /^Depends: .*\brunc, containernetworking-plugins, iptables \| nftables$/m);
    assert.match(fields, /^Recommends: .*\bcontainerd\b.*\bcrun\b/m);
    const size = Number(/^Installed-Size: (\d+)$/m.exec(fields)?.[1]);
    assert.ok(size > 50_000 && size < 150_000, `${size} KiB`);
  });

  test('the .rpm has the same programs', async () => {
    const { stdout } = await run('rpm', ['-qpl', made.rpm]);
    for (const path of ['/usr/lib/sluice/node', '/usr/sbin/sluiced', '/usr/bin/sluice', '/etc/sluice/config.toml'])
      assert.ok(stdout.split('\n').includes(path), path);
    const { stdout: configs } = await run('rpm', ['-qpc', made.rpm]);
    assert.equal(configs.trim(), '/etc/sluice/config.toml');
  });

  test('the .rpm installs below another root, and its programs run there', async () => {
    const root = join(folder, 'rpm-root');
    await run('rpm', ['--root', root, '--install', '--nodeps', '--noscripts', '--ignorearch', '--ignoreos', made.rpm]);
    const { stdout } = await run(join(root, 'usr/bin/sluice'), ['version'], { env: { PATH: '/usr/bin:/bin' } });
    assert.match(stdout, /^sluice \d/);
    assert.ok(existsSync(join(root, 'usr/lib/systemd/system/sluiced.service')));
  });

  test('the bill of materials has each package with version, licence and checksum', () => {
    const bill = JSON.parse(readFileSync(made.sbom, 'utf8')) as {
      bomFormat: string;
      specVersion: string;
      components: {
        name: string;
        version?: string;
        purl: string;
        licenses?: unknown[];
        hashes?: unknown[];
        components?: { name: string; version: string }[];
      }[];
    };
    assert.deepEqual([bill.bomFormat, bill.specVersion], ['CycloneDX', '1.6']);
    const npm = bill.components.filter(({ purl }) => !purl.startsWith('pkg:deb/'));
    assert.ok(npm.length > 20, `${npm.length} components`);
    for (const one of npm) assert.ok(one.version && one.licenses?.length === 1 && one.hashes?.length === 1, one.name);
    const node = npm.find(({ name }) => name === 'node');
    assert.equal(node?.version, process.versions.node);
    for (const name of ['openssl', 'v8', 'sqlite', 'uv'] as const)
      assert.ok(
        node?.components?.some((one) => one.name === name && one.version === process.versions[name]),
        name,
      );
    assert.ok(npm.some(({ name }) => /^@koromix\/koffi-/.test(name)));
  });

  test('lintian finds nothing that is not explained', async () => {
    const { stdout } = await run('lintian', ['--tag-display-limit', '0', '--fail-on', 'none', made.deb], {
      check: false,
    });
    assert.equal(stdout.trim(), '');
    const overrides = readFileSync(join(import.meta.dirname, '../../packaging/deb/lintian-overrides'), 'utf8');
    assert.match(overrides, /^# /, 'each override has its reason above it');
  });
});
