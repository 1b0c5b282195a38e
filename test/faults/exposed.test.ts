/**
 * What others on the host can see of the daemon and do to it: users without rights, signals. The daemon of these tests
 * is started with a umask of 077.
 */
import assert from 'node:assert/strict';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type ContainerLab, openContainerLab, SKIP, SLEEP, sh } from '../integration/container-lab.ts';
import { imageSpec, linux, mount, podConfig } from '../rig/messages.ts';
import { allPaths, as, NOBODY, openTo } from '../rig/others.ts';
import { program } from '../rig/paths.ts';
import { run, waitFor } from '../rig/proc.ts';
import { pushImage } from '../rig/push.ts';
import { Rootfs } from '../rig/rootfs.ts';

const nobody = { uid: NOBODY, gid: NOBODY };
const skip = SKIP;
const IMAGE = 'docker.io/exposed/setuid:1';

let lab: ContainerLab;
before(async () => {
  if (skip) return;
  const mask = process.umask(0o077);
  try {
    lab = await openContainerLab({
      index: 16,
      writable: true,
      prepare: async (folder) => {
        // What an earlier version left: folders that others may pass through.
        for (const name of ['root', 'state']) {
          mkdirSync(join(folder, name), { recursive: true });
          chmodSync(join(folder, name), 0o711);
        }
        // Links, so that a test can take the programs away.
        symlinkSync(program('runc'), join(folder, 'runtime'));
        symlinkSync(program('containerd-shim-runc-v2'), join(folder, 'containerd-shim-runc-v2'));
        const runc = { binary: join(folder, 'runtime'), shim: join(folder, 'containerd-shim-runc-v2') };
        return { runtimes: { runc } };
      },
    });
  } finally {
    process.umask(mask);
  }
  const own = new Rootfs().file('bin/busybox', readFileSync('/bin/busybox'), 0o755);
  for (const applet of ['sh', 'id', 'ls', 'cat', 'touch', 'sleep', 'stat'])
    own.hardLink(`bin/${applet}`, 'bin/busybox');
  own.file('setuid', readFileSync('/bin/busybox'), 0o4755).file('srv/data/file', 'x');
  await pushImage(lab.registry.address, 'exposed/setuid:1', {
    layers: [own.done()],
    config: { Volumes: { '/srv/data': {}, '/srv/new': {} }, Env: ['PATH=/bin'] },
  });
  await lab.pull(IMAGE);
});
after(() => lab?.[Symbol.asyncDispose]());

test('another user of the host opens nothing of the daemon’s: no list of pods, no shm, no setuid program', {
  skip,
}, async () => {
  const { daemon } = lab;
  await using pod = await lab.pod('private');
  await pod.run(
    'c',
    SLEEP,
    { mounts: [mount({ containerPath: '/image', readonly: true, image: imageSpec(IMAGE) })] },
    IMAGE,
  );
  const paths = [daemon.root, daemon.state].flatMap((folder) => allPaths(folder));
  // The test would prove nothing if what it is about were not there.
  for (const there of [
    /sandboxes\/[0-9a-f]{64}\/shm$/,
    /layers\/[^/]+\/fs\/setuid$/,
    /rootfs\/setuid$/,
    /image-volumes\/[0-9a-f]+\/setuid$/,
    /\.db$/,
    /config\.json$/,
  ]) {
    assert.ok(
      paths.some((path) => there.test(path)),
      `${there}`,
    );
  }
  assert.deepEqual(await openTo(nobody, paths), []);
  const shm = paths.find((path) => path.endsWith('/shm')) ?? '';
  const setuid = paths.find((path) => /layers\/[^/]+\/fs\/setuid$/.test(path)) ?? '';
  assert.equal(statSync(setuid).mode & 0o7777, 0o4755);
  assert.notEqual((await as(nobody, `ls ${daemon.state}`)).code, 0);
  assert.notEqual((await as(nobody, `echo x > ${shm}/x`)).code, 0);
  assert.notEqual((await as(nobody, `${setuid} id`)).code, 0);
  assert.equal(existsSync(join(shm, 'x')), false);
  // Beside the state folder lies that of the bundles of pods with user namespaces: others may pass, not list.
  assert.deepEqual(await openTo(nobody, allPaths(`${daemon.state}-userns`)), [`x ${daemon.state}-userns`]);
  assert.match((await as(nobody, `exec 3<>/dev/null; cat ${daemon.socket}`)).stderr, /denied|such/);
  assert.equal(statSync(daemon.socket).mode & 0o777, 0o600);
});

test('whatever the umask that the daemon was started with, containers’ users read and write what they may', {
  skip,
}, async () => {
  const { cri } = lab;
  await using pod = await lab.pod('umask', {
    dnsConfig: { servers: ['10.0.0.1'], searches: [], options: [] },
  });
  const user = linux({ security: { runAsUser: { value: 1000n } } });
  const id = await pod.run('c', SLEEP, { linux: user }, IMAGE);
  assert.equal(
    await sh(cri, id, 'id -u; umask; ls / > /dev/null; cat /etc/resolv.conf'),
    '1000\n0022\nnameserver 10.0.0.1',
  );
  assert.equal(
    await sh(
      cri,
      id,
      'cat /etc/hosts /etc/hostname /srv/data/file > /dev/null; ls /srv/new; touch /dev/shm/x; echo ok',
    ),
    'ok',
  );
});

test('mount options of CRI 1.37 restrict a mount, and are advertised', { skip }, async () => {
  const { cri } = lab;
  assert.equal((await cri.status({})).features?.mountOptions, true);
  await using pod = await lab.pod('options');
  const host = join(lab.folder, 'options');
  mkdirSync(host, { mode: 0o777 });
  writeFileSync(join(host, 'busybox'), readFileSync('/bin/busybox'), { mode: 0o755 });
  const mounts = [
    mount({ containerPath: '/plain', hostPath: host }),
    mount({ containerPath: '/locked', hostPath: host, mountOptions: ['noexec', 'nosuid', 'nodev'] }),
    mount({ containerPath: '/image', readonly: true, image: imageSpec(IMAGE), mountOptions: ['noexec'] }),
  ];
  const id = await pod.run('c', SLEEP, { mounts }, IMAGE);
  assert.equal(await sh(cri, id, '/plain/busybox id -u'), '0');
  assert.match(await sh(cri, id, '/locked/busybox id -u 2>&1; touch /locked/new && echo written'), /denied\nwritten/);
  assert.match(await sh(cri, id, '/image/setuid id -u 2>&1; echo'), /denied/);
  const table = await sh(cri, id, 'cat /proc/self/mountinfo');
  assert.match(table, / \/locked rw,nosuid,nodev,noexec/);
  const suid = [mount({ containerPath: '/x', hostPath: host, mountOptions: ['suid'] })];
  await assert.rejects(pod.create('refused', SLEEP, { mounts: suid }, IMAGE), /"suid" is not supported/);
});

test('a privileged container gets the devices that the host has when it is made', { skip }, async () => {
  const { cri, daemon } = lab;
  const { linux: own } = podConfig('devices', { cgroupParent: daemon.cgroupParent });
  assert.ok(own?.securityContext);
  await using pod = await lab.pod('devices', {
    linux: { ...own, securityContext: { ...own.securityContext, privileged: true } },
  });
  const device = `/dev/sluice-test-${process.pid}`;
  await run('mknod', [device, 'c', '1', '3']); // another /dev/null, made while the daemon runs
  try {
    const id = await pod.run('c', SLEEP, { linux: linux({ security: { privileged: true } }) }, IMAGE);
    assert.equal(await sh(cri, id, `stat -c %F ${device}; echo x > ${device}; echo ok`), 'character special file\nok');
  } finally {
    await run('rm', ['-f', device]);
  }
});

test('SIGUSR1 writes a report to the log and opens no inspector; SIGHUP does not end the daemon', {
  skip,
}, async () => {
  const { daemon, cri } = lab;
  await using pod = await lab.pod('signals');
  const before = await listening(daemon.pid());
  process.kill(daemon.pid(), 'SIGUSR1');
  const line = await waitFor('the report', 10_000, () =>
    daemon
      .log()
      .split('\n')
      .find((text) => text.includes('report of what the daemon does')),
  );
  const report = JSON.parse(line) as Record<string, Record<string, unknown>>;
  for (const part of ['jobs', 'stages', 'queues', 'pools', 'cleanUps', 'handles', 'memory', 'shims']) {
    assert.equal(typeof report[part], 'object', part);
  }
  assert.equal(report.rows?.sandboxes, 1);
  assert.ok(Number(report.memory?.rss) > 10 << 20);
  process.kill(daemon.pid(), 'SIGHUP');
  await waitFor('the reload', 10_000, () => daemon.log().includes('configuration reloaded') || undefined);
  // Node's inspector would listen within milliseconds; the report above came after it.
  assert.deepEqual(await listening(daemon.pid()), before);
  assert.doesNotMatch(daemon.log(), /Debugger listening/);
  assert.equal((await cri.podSandboxStatus({ podSandboxId: pod.id })).status?.id, pod.id);
});

/** TCP sockets on which a process listens. */
async function listening(pid: number): Promise<string[]> {
  const { stdout } = await run('ss', ['-Hltnp']);
  return stdout
    .split('\n')
    .filter((line) => line.includes(`pid=${pid},`))
    .map((line) => line.trim().split(/\s+/)[3] ?? '')
    .sort();
}

test('a folder that others use is not closed: the daemon refuses it', { skip }, async () => {
  const shared = join(lab.folder, 'shared');
  mkdirSync(join(shared, 'of-others'), { recursive: true, mode: 0o755 });
  const config = join(lab.folder, 'shared.toml');
  writeFileSync(
    config,
    `socket = "${lab.folder}/other.sock"\nroot = "${lab.folder}/other-root"\nstate = "${shared}"\nmetrics.listen = ""\n`,
  );
  const { code, stderr } = await run('sh', ['bin/sluiced', '--config', config], { check: false, timeoutMs: 60_000 });
  assert.equal(code, 1);
  assert.match(stderr, /shared is used by others \(it contains of-others\)/);
  assert.equal(statSync(shared).mode & 0o777, 0o755);
});

test('RuntimeReady and /healthz say that the runtime’s program is gone, and that it is there again', {
  skip,
}, async () => {
  const { daemon, cri } = lab;
  const healthz = async () => {
    const answer = await fetch(`http://${daemon.metrics}/healthz`);
    return [answer.status, (await answer.text()).trim()] as const;
  };
  const runtimeReady = async () =>
    (await cri.status({})).status?.conditions.find(({ type }) => type === 'RuntimeReady');
  assert.deepEqual(await healthz(), [200, 'ok']);
  assert.equal((await runtimeReady())?.status, true);
  renameSync(join(daemon.folder, 'runtime'), join(daemon.folder, 'away'));
  const lost = await waitFor('the condition', 30_000, async () => {
    const condition = await runtimeReady();
    return condition?.status === false ? condition : undefined;
  });
  assert.equal(lost.reason, 'RuntimeNotReady');
  assert.match(lost.message, /the runtime .*\/runtime: there is no such program/);
  const [status, reasons] = await healthz();
  assert.equal(status, 503);
  assert.match(reasons, /there is no such program/);
  renameSync(join(daemon.folder, 'away'), join(daemon.folder, 'runtime'));
  await waitFor('health', 30_000, async () => (await healthz())[0] === 200 || undefined);
  assert.equal((await runtimeReady())?.message, '');
});
