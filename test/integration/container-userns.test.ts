/**
 * Pods with a user namespace of their own: who owns what their containers see. With runc 1.4 and a shim of containerd
 * 2.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { NamespaceMode, NamespaceOption, type PodSandboxConfig } from '../../proto/gen/cri.ts';
import { built, Unavailable } from '../rig/build.ts';
import { imageSpec, linux, mount, podConfig } from '../rig/messages.ts';
import { allPaths, NOBODY, openTo } from '../rig/others.ts';
import { pushImage } from '../rig/push.ts';
import { Rootfs } from '../rig/rootfs.ts';
import { type ContainerLab, exited, openContainerLab, SKIP, SLEEP, sh, type TestPod } from './container-lab.ts';

const FIRST = 200_000;
const mappings = [{ containerId: 0, hostId: FIRST, length: 65_536 }];
const options = (pod: PodSandboxConfig['linux'], change: Partial<NamespaceOption> = {}): NamespaceOption => ({
  ...NamespaceOption.decode(new Uint8Array()),
  ...pod?.securityContext?.namespaceOptions,
  usernsOptions: { mode: NamespaceMode.POD, uids: mappings, gids: mappings },
  ...change,
});

let lab: ContainerLab;
let unavailable: string | false = SKIP;

before(async () => {
  if (SKIP) return;
  let runtime: { binary: string; shim: string };
  try {
    runtime = { binary: await built('runc-1.4'), shim: await built('containerd-shim-runc-v2') };
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    unavailable = error.message;
    return;
  }
  lab = await openContainerLab({
    index: 41,
    writable: true,
    prepare: async (folder) => {
      const old = (name: string, says: string) => {
        writeFileSync(join(folder, name), `#!/bin/sh\necho '${says}'\n`, { mode: 0o755 });
        return join(folder, name);
      };
      const runtimes = {
        runc: runtime,
        'old-shim': { ...runtime, shim: old('shim', 'shim:\n  Version:  1.6.20') },
        'old-runc': { ...runtime, binary: old('runc', '{"mountOptions":[]}') },
      };
      return { runtimes };
    },
  });
  const layer = (name: string) => new Rootfs().file(`data/${name}`, name, 0o600).file('data/sub/inner', name, 0o600);
  const volume = { layers: [layer('one').done()], config: {} };
  await pushImage(lab.registry.address, 'userns/one:1', volume);
  await pushImage(lab.registry.address, 'userns/two:1', { layers: [layer('one').done(), layer('two').done()] });
  await lab.pull('docker.io/userns/one:1');
  await lab.pull('docker.io/userns/two:1');
});
after(() => lab?.[Symbol.asyncDispose]());

async function usernsPod(name: string, network: NamespaceMode = NamespaceMode.POD): Promise<TestPod> {
  const { linux: own } = podConfig(name, { cgroupParent: lab.daemon.cgroupParent });
  assert.ok(own?.securityContext);
  const namespaceOptions = options(own, { network });
  return lab.pod(name, {
    linux: { ...own, securityContext: { ...own.securityContext, namespaceOptions } },
    hostname: network === NamespaceMode.NODE ? '' : name,
  });
}

/** The container's own words about its namespaces must be the pod's. */
const inUserns = (pod: TestPod) => ({
  linux: linux({
    security: {
      namespaceOptions: { ...options(pod.config.linux), pid: NamespaceMode.CONTAINER },
    },
  }),
});

const skipped = (t: { skip(why: string): void }): boolean => {
  if (unavailable) t.skip(unavailable);
  return unavailable !== false;
};

test('the pod’s files, shm and an image volume belong to the container’s root', async (t) => {
  if (skipped(t)) return;
  const { cri } = lab;
  await using pod = await usernsPod('owners');
  const image = (ref: string, containerPath: string, imageSubPath = '') =>
    mount({
      containerPath,
      readonly: true,
      image: imageSpec(ref),
      imageSubPath,
      uidMappings: mappings,
      gidMappings: mappings,
    });
  const host = join(lab.folder, 'volume');
  mkdirSync(host, { mode: 0o755 });
  writeFileSync(join(host, 'file'), 'hello');
  const id = await pod.run('c', SLEEP, {
    ...inUserns(pod),
    mounts: [
      image('docker.io/userns/one:1', '/one'),
      image('docker.io/userns/two:1', '/two'),
      image('docker.io/userns/two:1', '/sub', 'data/sub'),
      mount({ containerPath: '/volume', hostPath: host, uidMappings: mappings, gidMappings: mappings }),
    ],
  });
  assert.match(await sh(cri, id, 'cat /proc/self/uid_map'), /^\s+0\s+200000\s+65536$/);
  const files =
    '/etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /one/data/one /two/data/two /sub/inner /volume/file /';
  for (const line of (await sh(cri, id, `stat -c '%n %u:%g' ${files}`)).split('\n')) assert.match(line, / 0:0$/);
  assert.equal(await sh(cri, id, 'cat /one/data/one /two/data/one /two/data/two /sub/inner'), 'oneonetwotwo');
  assert.match(await sh(cri, id, 'touch /two/data/x 2>&1 || true'), /Read-only/);
  assert.match(await sh(cri, id, 'touch /one/data/x 2>&1 || true'), /Read-only/);
  await sh(
    cri,
    id,
    'echo 127.0.0.9 more >> /etc/hosts; echo x > /dev/shm/x; chmod 1770 /dev/shm; touch /volume/new /new',
  );
  assert.equal(statSync(join(host, 'new')).uid, 0, 'a mapped volume keeps the disk’s owners');
  assert.equal(await sh(cri, id, 'echo out > /dev/stderr; id -u'), '0');
});

test('folders of the image’s VOLUMEs are copied up with owners that the container’s root has', async (t) => {
  if (skipped(t)) return;
  const own = new Rootfs().file('srv/data/file', 'from the image', 0o600);
  const shell = new Rootfs().file('bin/busybox', readFileSync('/bin/busybox'), 0o755);
  for (const applet of ['sh', 'stat', 'cat', 'touch', 'sleep']) shell.hardLink(`bin/${applet}`, 'bin/busybox');
  await pushImage(lab.registry.address, 'userns/volumes:1', {
    layers: [shell.done(), own.done()],
    config: { Volumes: { '/srv/data': {} }, Env: ['PATH=/bin'] },
  });
  const ref = 'docker.io/userns/volumes:1';
  await lab.pull(ref);
  await using pod = await usernsPod('volumes');
  const id = await pod.run('c', SLEEP, inUserns(pod), ref);
  assert.equal(await sh(lab.cri, id, 'stat -c %u:%g /srv/data/file; cat /srv/data/file'), '0:0\nfrom the image');
  await sh(lab.cri, id, 'touch /srv/data/new');
});

test('on the host’s network: no network namespace, and a user namespace all the same', async (t) => {
  if (skipped(t)) return;
  const { cri } = lab;
  await using pod = await usernsPod('hostnet', NamespaceMode.NODE);
  const config = {
    linux: linux({
      security: {
        namespaceOptions: options(pod.config.linux, { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER }),
      },
    }),
    mounts: [mount({ containerPath: '/two', readonly: true, image: imageSpec('docker.io/userns/two:1') })],
  };
  const id = await pod.run('c', SLEEP, config);
  assert.match(await sh(cri, id, 'cat /proc/self/uid_map'), /^\s+0\s+200000\s+65536$/);
  assert.equal(await sh(cri, id, 'readlink /proc/self/ns/net'), readlinkSync('/proc/self/ns/net'));
  assert.equal(await sh(cri, id, 'stat -c %u /two/data/two /etc/hosts'), '0\n0');
  assert.match(await sh(cri, id, 'touch /sys/x 2>&1 || true'), /Read-only|denied|not permitted/i);
});

test('the bundle of such a pod lies outside the closed state folder, and opens to the pod’s own group alone', async (t) => {
  if (skipped(t)) return;
  await using pod = await usernsPod('closed');
  const id = await pod.run('c', SLEEP, inUserns(pod));
  const bundles = `${lab.daemon.state}-userns`;
  assert.deepEqual(readdirSync(bundles).sort(), [id, pod.id].sort());
  const paths = [lab.daemon.state, lab.daemon.root, bundles].flatMap((folder) => allPaths(folder));
  assert.ok(paths.includes(join(bundles, id, 'rootfs/bin/sh')));
  assert.deepEqual(await openTo({ uid: NOBODY, gid: NOBODY }, paths), [`x ${bundles}`]);
  const group = await openTo({ uid: NOBODY, gid: FIRST }, paths);
  assert.ok(group.includes(`x ${join(bundles, id)}`));
  assert.deepEqual(
    group.filter((line) => !line.includes(bundles) || line.includes('config.json')),
    [],
  );
});

test('logs, exit codes and users in a user namespace', async (t) => {
  if (skipped(t)) return;
  const { cri } = lab;
  await using pod = await usernsPod('plain');
  const own = inUserns(pod);
  const id = await pod.run('c', ['sh', '-c', 'id -u; echo err >&2; exit 5'], own);
  assert.equal((await exited(cri, id)).exitCode, 5);
  assert.match(pod.log('c'), / stdout F 0\n/);
  assert.match(pod.log('c'), / stderr F err\n/);
  const security = own.linux.securityContext;
  const user = linux({ security: { ...security, runAsUser: { value: 1000n }, runAsGroup: { value: 33n } } });
  const other = await pod.run('user', ['sh', '-c', 'id -u; id -g; echo x > /dev/shm/x; echo y > /dev/stdout'], {
    linux: user,
  });
  assert.equal((await exited(cri, other)).exitCode, 0, pod.log('user'));
  assert.match(pod.log('user'), /F 1000\n.*F 33\n.*F y\n/s);
});

test('a runtime or shim too old for it: refused with words, and not advertised', async (t) => {
  if (skipped(t)) return;
  const config = podConfig('old', { cgroupParent: lab.daemon.cgroupParent });
  assert.ok(config.linux?.securityContext);
  config.linux.securityContext.namespaceOptions = options(config.linux);
  const { runtimeHandlers, features } = await lab.cri.status({});
  assert.equal(features?.userNamespacesHostNetwork, true);
  for (const handler of ['old-shim', 'old-runc']) {
    await assert.rejects(
      lab.cri.runPodSandbox({ config, runtimeHandler: handler }),
      /"old-.*" has no user namespaces.*runc/,
    );
    assert.equal(runtimeHandlers.find(({ name }) => name === handler)?.features?.userNamespaces, false);
  }
  assert.equal(runtimeHandlers.find(({ name }) => name === '')?.features?.userNamespaces, true);
});

test('nothing is left of them', async (t) => {
  if (skipped(t)) return;
  await lab.daemon.assertNothingLeft();
});
