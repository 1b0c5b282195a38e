/**
 * Containers on each snapshotter: overlayfs, native (also where there can be no overlay), and proxies to containerd and
 * to stargz-snapshotter, which fetches layers lazily. All show one image alike. As root.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { MountPropagation } from '../../proto/gen/cri.ts';
import { Snapshots } from '../../src/node/grpc/snapshots.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { built, Unavailable } from '../rig/build.ts';
import { startContainerd } from '../rig/containerd.ts';
import { imageSpec, mount as mountMessage } from '../rig/messages.ts';
import { privateFolder, program } from '../rig/paths.ts';
import { run, start, waitFor } from '../rig/proc.ts';
import { digestOf, pushImage } from '../rig/push.ts';
import { tarball } from '../rig/tarball.ts';
import { BUSYBOX, type ContainerLab, exited, openContainerLab, SKIP, sh, type TestPod } from './container-lab.ts';

const APP = 'snap/app:1';

/** busybox's layer, and two more that hide, replace and name a user. */
async function pushApp(lab: ContainerLab, pack?: (tar: Buffer) => Promise<LayerParts>): Promise<void> {
  const base = await firstLayer(lab.registry.address, 'library/busybox', 'latest');
  const first = tarball([
    { path: 'data/', kind: 'directory', mode: 0o1777, uid: 5, gid: 6 },
    { path: 'data/stays', content: 'below' },
    { path: 'data/goes', content: 'below' },
    { path: 'data/folder/', kind: 'directory' },
    { path: 'data/folder/old', content: 'x' },
    { path: 'etc/', kind: 'directory' },
    { path: 'etc/passwd', content: 'root:x:0:0::/:/bin/sh\napp:x:4242:4343::/:/bin/sh\n' },
    { path: 'etc/group', content: 'app:x:4343:\nmore:x:4444:app\n' },
  ]);
  const second = tarball([
    { path: 'data/', kind: 'directory', mode: 0o1777, uid: 5, gid: 6 },
    { path: 'data/.wh.goes' },
    { path: 'data/folder/', kind: 'directory' },
    { path: 'data/folder/.wh..wh..opq' },
    { path: 'data/folder/new', content: 'n' },
    { path: 'data/volume/', kind: 'directory', mode: 0o755 },
    { path: 'data/volume/y', content: 'y' },
  ]);
  const parts = [base, first, second];
  const layers = pack ? await Promise.all(parts.map(pack)) : parts.map((tar) => ({ tar }));
  await pushImage(lab.registry.address, APP, {
    layers,
    config: { Volumes: { '/data/volume': {} }, User: 'app' },
    ...(pack && { manifest: { layers: descriptorsOf(layers as LayerParts[]) } }),
  });
}

interface LayerParts {
  tar: Buffer;
  blob: Buffer;
  toc: string;
}

const GZIP = 'application/vnd.oci.image.layer.v1.tar+gzip';
const descriptorsOf = (layers: readonly LayerParts[]) =>
  layers.map(({ blob, toc }) => ({
    mediaType: GZIP,
    digest: digestOf(blob),
    size: blob.length,
    annotations: { 'containerd.io/snapshot/stargz/toc.digest': toc },
  }));

/** The first layer of an image of a registry, decompressed. */
async function firstLayer(registry: string, name: string, tag: string): Promise<Buffer> {
  const accept = 'application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json';
  const manifest = await fetch(`http://${registry}/v2/${name}/manifests/${tag}`, { headers: { accept } });
  const { layers } = (await manifest.json()) as { layers: { digest: string }[] };
  const blob = await fetch(`http://${registry}/v2/${name}/blobs/${layers[0]?.digest}`);
  return gunzipSync(Buffer.from(await blob.arrayBuffer()));
}

const LOOK = 'id -u; id -G; ls /data /data/folder /data/volume; cat /data/stays; stat -c "%a %u:%g" /data';
const SEEN = [
  '4242',
  '4343 4444',
  '/data:',
  'folder',
  'stays',
  'volume',
  '',
  '/data/folder:',
  'new',
  '',
  '/data/volume:',
  'y',
  'below1777 5:6',
];

/** Runs the image every way that Sluice offers, and takes everything away again. */
async function everyWay(lab: ContainerLab, pod: TestPod): Promise<void> {
  const { cri, daemon } = lab;
  const reference = `${lab.registry.address}/${APP}`;
  await lab.pull(reference);
  const own = await pod.run('own', ['sh', '-c', 'echo written >/tmp/mine; cat /tmp/mine; sleep 3600'], {}, reference);
  assert.deepEqual((await sh(cri, own, LOOK)).split('\n'), SEEN);

  const second = await pod.run('second', ['sh', '-c', 'ls /tmp/mine; exit 3'], {}, reference);
  assert.equal((await exited(cri, second)).exitCode, 3, 'what a container writes is its own');
  assert.match(pod.log('second'), /No such file/);
  const { stats } = await waitFor('the size of the writable layer', 20_000, async () => {
    const found = await cri.containerStats({ containerId: own });
    return Number(found.stats?.writableLayer?.usedBytes?.value ?? 0n) > 0 ? found : undefined;
  });
  assert.ok(Number(stats?.writableLayer?.inodesUsed?.value) >= 2);

  const volume = mountMessage({
    containerPath: '/image',
    image: imageSpec(reference),
    readonly: true,
    propagation: MountPropagation.PROPAGATION_PRIVATE,
  });
  const viewer = await pod.run('viewer', ['sh', '-c', 'cat /image/data/stays; touch /image/x; true'], {
    mounts: [volume],
  });
  await exited(cri, viewer);
  assert.match(pod.log('viewer'), /below/);
  assert.match(pod.log('viewer'), /Read-only file system/);

  // The daemon finds everything again.
  await daemon.stop('SIGKILL');
  await daemon.start();
  assert.equal(await sh(cri, own, 'cat /tmp/mine'), 'written');
  const third = await pod.run('third', ['cat', '/data/stays'], {}, reference);
  await exited(cri, third);
  assert.match(pod.log('third'), /below/);
  const { imageFilesystems } = await cri.imageFsInfo({});
  assert.ok(Number(imageFilesystems[0]?.usedBytes?.value) > 0);
}

/** A daemon on which the image has been run, and removed without a trace. */
async function oneImage(
  options: Parameters<typeof openContainerLab>[0],
  pack?: (tar: Buffer) => Promise<LayerParts>,
): Promise<ContainerLab> {
  const lab = await openContainerLab({ writable: true, ...options });
  try {
    await pushApp(lab, pack);
    const pod = await lab.pod('snap');
    await everyWay(lab, pod);
    await pod[Symbol.asyncDispose]();
    await lab.cri.removeImage({ image: imageSpec(`${lab.registry.address}/${APP}`) });
    await lab.daemon.assertNothingLeft();
    assert.deepEqual(readdirSync(join(lab.daemon.root, 'snapshots')), [], 'snapshots are left');
    return lab;
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}

const stillListed = async (lab: ContainerLab) =>
  (await lab.cri.listImages()).images.flatMap(({ repoTags }) => repoTags).sort();

describe('snapshotters', { skip: SKIP }, () => {
  test('overlayfs', async () => {
    await using lab = await oneImage({ index: 71 });
    assert.ok((await stillListed(lab)).includes(BUSYBOX));
  });

  test('native: copies of a tree', async () => {
    await using lab = await oneImage({ index: 72, config: { images: { snapshotter: 'native' } } });
    // One tree for each image that is left: busybox and the pause image.
    assert.equal(readdirSync(join(lab.daemon.root, 'native')).length, 2);
  });

  test('native where there can be no overlay: on an overlay itself', async () => {
    const folder = privateFolder('snap-overlay');
    const [lower, upper, work, root] = ['lower', 'upper', 'work', 'root'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
      string,
    ];
    for (const path of [lower, upper, work, root]) mkdirSync(path);
    mount({
      source: 'overlay',
      target: root,
      type: 'overlay',
      data: `lowerdir=${lower},upperdir=${upper},workdir=${work}`,
    });
    using cleaning = new DisposableStack();
    cleaning.defer(() => {
      unmount(root);
      rmSync(folder, { recursive: true, force: true });
    });
    await using _ = await oneImage({ index: 73, root, config: { images: { snapshotter: 'native' } } });
  });

  test('images of overlayfs are used by native without a second pull, and not the other way round', async () => {
    await using lab = await openContainerLab({ index: 74 });
    const { daemon, cri } = lab;
    const listed = async () => (await cri.listImages()).images.some(({ repoTags }) => repoTags.includes(BUSYBOX));
    const restart = async (snapshotter: string) => {
      await daemon.stop();
      daemon.configure({ images: { snapshotter } });
      await daemon.start();
    };
    await restart('native');
    assert.ok(await listed());
    const pod = await lab.pod('switch');
    const id = await pod.run('one', ['true']);
    assert.equal((await exited(cri, id)).exitCode, 0);
    await pod[Symbol.asyncDispose]();
    await cri.removeImage({ image: imageSpec(BUSYBOX) });
    await lab.pull(BUSYBOX);
    await restart('overlayfs');
    assert.ok(!(await listed()), 'an image whose layers no overlay can have is listed');
    await lab.pull(BUSYBOX);
    const again = await lab.pod('switched');
    assert.equal((await exited(cri, await again.run('two', ['true']))).exitCode, 0);
    await again[Symbol.asyncDispose]();
  });

  for (const name of ['overlayfs', 'native']) {
    test(`proxy: containerd's own ${name} snapshotter`, async (t) => {
      const index = name === 'native' ? 75 : 76;
      let containerd: string;
      try {
        containerd = await built('containerd-2.4');
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error;
        return t.skip(error.message);
      }
      await using peer = await startContainerd({
        ...{ containerd, shim: program('containerd-shim-runc-v2'), runc: program('runc') },
        index: index + 20,
      });
      const proxy = { snapshotter: 'proxy', snapshotter_socket: peer.socket, snapshotter_name: name };
      await using lab = await oneImage({ index, config: { images: proxy } });
      using client = new Snapshots({ socket: peer.socket, name });
      const layers = async () => (await client.list()).filter(({ committed }) => committed).length;
      assert.equal(await layers(), 2, 'busybox and the pause image alone are left');
      await lab.cri.removeImage({ image: imageSpec(BUSYBOX) });
      await waitFor('the last layer to go', 10_000, async () => (await client.list()).length === 1 || undefined);
      // A proxy that is gone is told, and costs no more than the call.
      await peer.stop();
      await assert.rejects(lab.pull(BUSYBOX), /the snapshotter at .*containerd\.sock/);
      await peer.start();
      // The connection is tried again every 200 ms.
      await waitFor('a pull', 10_000, async () => {
        await lab.pull(BUSYBOX);
        return true;
      });
    });
  }

  test('proxy: stargz-snapshotter has the layers before they are downloaded', async (t) => {
    let stargz: string;
    try {
      stargz = await built('stargz-snapshotter');
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      return t.skip(error.message);
    }
    const folder = privateFolder('stargz');
    const [root, socket, log] = [join(folder, 'root'), join(folder, 's'), join(folder, 'log')];
    mkdirSync(root);
    const snapshotter = start(stargz, ['serve', root, socket], log);
    await using cleaning = new AsyncDisposableStack();
    cleaning.defer(async () => {
      await snapshotter.stop();
      for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n').reverse()) {
        const path = line.split(' ')[1] ?? '';
        if (path.startsWith(folder)) unmount(path);
      }
      rmSync(folder, { recursive: true, force: true });
    });
    using client = new Snapshots({ socket, name: 'stargz' });
    await waitFor('stargz-snapshotter', 20_000, () => client.list().then(() => true));
    let made = 0;
    const pack = async (tar: Buffer): Promise<LayerParts> => {
      const [from, to] = [join(folder, `tar${++made}`), join(folder, `esgz${made}`)];
      writeFileSync(from, tar);
      const { stdout } = await run(stargz, ['convert', from, to]);
      const { toc } = JSON.parse(stdout) as { toc: string };
      const blob = readFileSync(to);
      return { tar: gunzipSync(blob), blob, toc };
    };
    const proxy = { snapshotter: 'proxy', snapshotter_socket: socket, snapshotter_name: 'stargz' };
    await using lab = await oneImage({ index: 77, config: { images: proxy } }, pack);
    const downloaded = async () =>
      Number(/^sluice_image_bytes_total\{kind="downloaded"\} (\d+)/m.exec(await lab.daemon.scrape())?.[1] ?? 0);
    const before = await downloaded();
    await lab.pull(`${lab.registry.address}/${APP}`);
    assert.equal(await downloaded(), before, 'Sluice itself downloads layers');
    const fuse = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .filter((line) => line.includes(` ${folder}/`) && line.includes(' fuse'));
    assert.equal(fuse.length, 3, 'each layer is a file system that fetches what is read');
  });
});
