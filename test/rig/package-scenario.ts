/**
 * What an operator does with the Debian package, done to the machine that this runs on: installs, starts, uses,
 * upgrades with a running pod, reloads, removes and purges. For a VM or a throw-away root only.
 *
 *   node test/rig/package-scenario.ts OLD.deb NEW.deb FOLDER      the files' names, and the folder that has them
 *
 * With systemd as PID 1 the unit is tested as well; elsewhere the daemon is started by hand. Prints a line for each
 * thing that was seen, and ends with status 1 at the first that is not as it should be.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageSpec } from '../../proto/gen/cri.ts';
import { C } from '../../src/sys/libc.ts';
import { procStat } from '../../src/sys/proc-stat.ts';
import { type Cri, connectCri } from './cri.ts';
import { imageRegistry } from './images.ts';
import { containerConfig, podConfig } from './messages.ts';
import { privateFolder, SYSTEMD } from './paths.ts';
import { type Output, run, type Started, start, waitFor } from './proc.ts';
import { ownWatchdog, patientWatchdog } from './watchdog.ts';

const SOCKET = '/run/sluice/sluice.sock';
/** A VM is stopped for minutes while somebody measures, and its clock goes on. */
const PATIENCE_MS = SYSTEMD ? 3_600_000 : 120_000;
const IMAGE = 'docker.io/library/busybox:latest';

const [olderName = '', newerName = '', packages = ''] = process.argv.slice(2);
const [older, newer] = [join(packages, olderName), join(packages, newerName)];
const versionOf = (file: string) => basename(file).split('_')[1] ?? '';
const seen = (what: string) => console.log(`seen: ${what}`);

/** A command whose failure is the scenario's. */
async function sh(...words: string[]): Promise<string> {
  const [program = '', ...args] = words;
  const { stdout, stderr } = await run(program, args, {
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
  });
  return stdout + stderr;
}
const attempt = (program: string, ...args: string[]): Promise<Output> => run(program, args, { check: false });

/** Every path where a package, or what it starts, may leave something; but for what others write all the time. */
async function paths(): Promise<Set<string>> {
  const trees = ['/etc', '/usr', '/opt', '/var/lib', '/run', '-xdev'];
  const { stdout } = await run('find', trees, { check: false }); // something may go meanwhile
  const others = /^\/(run\/(systemd|udev|log|user|vm)|var\/lib\/(dpkg|apt|systemd))(\/|$)/;
  return new Set(
    stdout
      .trim()
      .split('\n')
      .filter((path) => !others.test(path)),
  );
}

/** The daemon, by systemd or by hand. */
let daemon: Started | undefined;
const byHand = () => {
  daemon = start('/usr/sbin/sluiced', [], '/var/log/sluiced.log', { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' });
};
const property = async (name: string) => (await sh('systemctl', 'show', '-P', name, 'sluiced.service')).trim();

async function serving(cri: Cri): Promise<string> {
  return waitFor('the daemon to answer', PATIENCE_MS, async () => {
    const { runtimeVersion } = await cri.version({}, { timeoutMs: 10_000 });
    return runtimeVersion;
  });
}

const folder = privateFolder('sluice-scenario');
await using registry = await imageRegistry(folder);
try {
  // ---- Install

  if (SYSTEMD) patientWatchdog();
  const before = await paths();
  const output = await sh('dpkg', '-i', older);
  assert.doesNotMatch(output, /warning|error/i, output);
  assert.equal((await sh('sluice', '--version')).trim(), `sluice ${versionOf(older)}`);
  assert.equal((await sh('/usr/sbin/sluiced', '--version')).trim(), `sluiced ${versionOf(older)}`);
  assert.match(await sh('sluice', 'config', 'check'), /config\.toml: good/);
  seen(`${basename(older)} installs, without a warning; its programs run and its configuration is good`);
  for (const page of ['man8/sluiced.8.gz', 'man1/sluice.1.gz', 'man5/sluice.toml.5.gz'])
    if (!existsSync(`/usr/share/man/${page}`)) console.log(`note: dpkg left out ${page} (a filter of this machine)`);

  // ---- Start

  using cri = connectCri(SOCKET);
  if (SYSTEMD) {
    await waitFor(
      'the unit to be active',
      PATIENCE_MS,
      async () => (await property('ActiveState')) === 'active' || undefined,
    );
    assert.equal(await property('UnitFileState'), 'enabled');
    // No container can speak for the daemon.
    assert.equal(await property('NotifyAccess'), 'main');
    assert.equal(await property('KeyringMode'), 'private');
    const verified = await attempt('systemd-analyze', 'verify', '--man=no', 'sluiced.service', 'sluiced.socket');
    assert.equal(verified.stdout + verified.stderr, '', 'systemd-analyze verify');
    await waitFor('a status', PATIENCE_MS, async () => /^0 pods, /.test(await property('StatusText')) || undefined);
    seen(`the unit is enabled, active and says: ${await property('StatusText')}`);
    for (const unit of ['sluiced.service', 'containerd.service']) {
      const { stdout } = await attempt('systemd-analyze', 'security', '--no-pager', unit);
      seen(`systemd-analyze security: ${stdout.trim().split('\n').at(-1)}`);
    }
  } else byHand();
  assert.equal(await serving(cri), versionOf(older));
  mkdirSync('/etc/sluice/conf.d', { recursive: true });
  writeFileSync('/etc/sluice/conf.d/registry.toml', `[images]\nregistry_config = "${registry.certsDir}"\n`);
  if (SYSTEMD) {
    await sh('systemctl', 'reload', 'sluiced');
    await waitFor(
      'the reload to end',
      PATIENCE_MS,
      async () => (await property('ActiveState')) === 'active' || undefined,
    );
  } else process.kill(daemon?.pid ?? 0, 'SIGHUP');
  await waitFor('the reload to count', PATIENCE_MS, async () => {
    const { status } = await attempt('sluice', 'config', 'diff', '--running').then(({ code }) => ({ status: code }));
    return status === 0 || undefined;
  });
  seen('a drop-in and a reload give it the registry');
  assert.match(await sh('sluice', 'status'), /^runtime: +ready\nnetwork: +ready$/m);

  // ---- Use

  await cri.pullImage({ image: { ...ImageSpec.decode(new Uint8Array()), image: IMAGE } }, { timeoutMs: PATIENCE_MS });
  const logs = `${folder}/logs`;
  mkdirSync(logs);
  const config = podConfig('upgrade', {
    logDirectory: logs,
    cgroupParent: SYSTEMD ? 'sluicescenario.slice' : '/sluicescenario',
  });
  const { podSandboxId } = await cri.runPodSandbox({ config }, { timeoutMs: PATIENCE_MS });
  const counting = ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done'];
  const { containerId } = await cri.createContainer(
    {
      podSandboxId,
      config: containerConfig('count', IMAGE, counting, { logPath: 'count.log' }),
      sandboxConfig: config,
    },
    { timeoutMs: PATIENCE_MS },
  );
  await cri.startContainer({ containerId }, { timeoutMs: PATIENCE_MS });
  const startOf = async (client: Cri) => {
    const cmd = ['sh', '-c', 'cut -d" " -f22 /proc/1/stat'];
    const { stdout } = await client.execSync({ containerId, cmd, timeout: 120n }, { timeoutMs: PATIENCE_MS });
    return stdout.toString().trim();
  };
  /** A daemon that has just started looks for its pods; in an emulated machine a shim answers after its time limit. */
  const sameProcess = async (client: Cri) =>
    assert.equal(await waitFor('the shim to answer', PATIENCE_MS, () => startOf(client)), startedAt);
  const startedAt = await startOf(cri);
  assert.match(await sh('sluice', 'ps'), / running +count /);
  seen('a pod with a container runs, and sluice ps shows it');

  // ---- Upgrade, with calls all the while

  if (SYSTEMD) {
    await sh('systemctl', 'enable', 'sluiced.socket');
    await sh('systemctl', 'stop', 'sluiced.service');
    await sh('systemctl', 'start', 'sluiced.socket', 'sluiced.service');
    await serving(cri);
    seen('with sluiced.socket enabled the socket is systemd’s');
  } else await sh('systemctl', '--root=/', 'enable', 'sluiced.socket'); // the link alone
  let over = false;
  let calls = 0;
  let longest = 0;
  const failures: string[] = [];
  const caller = (async () => {
    while (!over) {
      using fresh = connectCri(SOCKET);
      const began = performance.now();
      try {
        await fresh.version({}, { timeoutMs: 120_000 });
      } catch (error) {
        failures.push(String(error));
      }
      longest = Math.max(longest, performance.now() - began);
      calls++;
      await sleep(100);
    }
  })();
  const upgraded = await sh('dpkg', '-i', newer);
  assert.doesNotMatch(upgraded, /warning|error/i, upgraded);
  if (!SYSTEMD) {
    assert.equal(await daemon?.stop(120_000), 0);
    byHand();
  }
  await waitFor('the new version', PATIENCE_MS, async () => {
    using fresh = connectCri(SOCKET);
    return (await fresh.version({}, { timeoutMs: 20_000 })).runtimeVersion === versionOf(newer) || undefined;
  });
  over = true;
  await caller;
  seen(
    `${basename(newer)} is installed over it: ${calls} calls meanwhile, ${failures.length} failed, the longest took ${Math.round(longest)} ms`,
  );
  // On a machine that is slow enough a client gives its connection up after 20 seconds; but the socket is there all the
  // while.
  if (SYSTEMD)
    assert.deepEqual(
      failures.filter((failure) => /ECONNREFUSED|ENOENT/.test(failure)),
      [],
    );
  if (failures.length > 0) console.log(`note: ${failures[0]}`);
  const after = connectCri(SOCKET);
  await sameProcess(after);
  await sleep(2000);
  const lines = readFileSync(`${logs}/count.log`, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => Number(line.split(' ').at(-1)));
  assert.deepEqual(
    lines,
    Array.from({ length: lines.length }, (_, n) => n + 1),
  );
  seen(`the container is the same process, and all of its ${lines.length} log lines are there, in order`);

  if (SYSTEMD) {
    const journal = await sh('journalctl', '-u', 'sluiced', '-o', 'json', '-n', '50');
    const ready = journal.split('\n').find((line) => line.includes('sluice is ready')) ?? '';
    assert.equal(JSON.parse(ready).PRIORITY, '6');
    assert.ok(Number(await property('WatchdogTimestampMonotonic')) > 0);
    const pid = await property('MainPID');
    assert.equal(Number(procStat(`/proc/${pid}`)(41)), C.SCHED_RR, 'main is a real-time thread in a cgroup v2, too');
    process.kill(Number(pid), 'SIGKILL');
    await waitFor('the unit to be started again', PATIENCE_MS, async () => {
      const now = await property('MainPID');
      return (now !== pid && now !== '0' && (await property('ActiveState')) === 'active') || undefined;
    });
    assert.equal(await serving(after), versionOf(newer));
    seen(
      'the journal has priorities, main is a real-time thread, the watchdog is fed, and a killed daemon is started again',
    );
    ownWatchdog();
    await sh('systemctl', 'daemon-reload');
    await sh('systemctl', 'restart', 'sluiced');
    assert.equal(await property('WatchdogUSec'), '1min');
    await serving(after);
    const still = await property('MainPID');
    process.kill(Number(still), 'SIGSTOP');
    await waitFor('the watchdog to end a daemon that stands still', PATIENCE_MS, async () => {
      const now = await property('MainPID');
      return (now !== still && now !== '0' && (await property('ActiveState')) === 'active') || undefined;
    });
    assert.equal(await serving(after), versionOf(newer));
    await sameProcess(after);
    seen('a daemon that stands still is ended by the watchdog and started again; the container goes on');
  }

  // ---- Down: an older daemon than the store is refused where the schema differs; here it is the same, so dpkg alone decides.

  // ---- Remove

  await after.stopPodSandbox({ podSandboxId }, { timeoutMs: PATIENCE_MS });
  await after.removePodSandbox({ podSandboxId }, { timeoutMs: PATIENCE_MS });
  after.close();
  if (!SYSTEMD) await daemon?.stop(120_000);
  await sh('dpkg', '--remove', 'sluice');
  if (SYSTEMD) {
    assert.notEqual((await attempt('systemctl', 'is-active', 'sluiced.service')).code, 0);
    assert.notEqual((await attempt('systemctl', 'is-active', 'sluiced.socket')).code, 0);
  }
  assert.ok(!existsSync('/usr/lib/sluice') && !existsSync('/usr/sbin/sluiced'));
  assert.ok(existsSync('/etc/sluice/config.toml') && existsSync('/var/lib/sluice/sluice.db'));
  assert.doesNotMatch(await sh('iptables-save'), /the built-in pod network/);
  assert.doesNotMatch(await sh('ip', '-o', 'link'), /\bsluice[0-9a-f]{8}\b/);
  seen('removed: the programs and the built-in network are gone, configuration and images stay');
  rmSync('/etc/sluice/conf.d/registry.toml');
  // As a daemon of this package with another root has left it.
  const other = ['-s', '192.0.2.0/24', '-m', 'comment', '--comment', 'sluicedeadbeef: the built-in pod network'];
  await sh('iptables', '-w', '-t', 'nat', '-A', 'POSTROUTING', ...other, '-j', 'MASQUERADE');
  await sh('dpkg', '--purge', 'sluice');
  assert.ok(!existsSync('/etc/sluice') && !existsSync('/var/lib/sluice') && !existsSync('/run/sluice'));
  assert.equal((await attempt('dpkg', '-s', 'sluice')).code, 1);
  assert.doesNotMatch(await sh('iptables-save'), /the built-in pod network/);
  assert.deepEqual(
    [...(await paths())].filter((path) => !before.has(path)),
    [],
  );
  seen('purged: nothing is left');
} finally {
  if (!SYSTEMD) await daemon?.stop(10_000);
  rmSync(folder, { recursive: true, force: true });
}
