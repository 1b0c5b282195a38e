/**
 * Containers on each snapshotter: overlayfs, native (also where there can be no overlay), and proxies to containerd and
 * to stargz-snapshotter, which fetches layers lazily. All show one image alike. As root.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
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

/** busybox's layer, and two more with everything that differs between an overlay and a tree. */
async function pushApp(lab: ContainerLab, pack?: (tar: Buffer) => Promise<LayerParts>): Promise<void> {
  const base = await layersOf(lab.registry.address, 'library/busybox', 'latest');
  const first = tarball([
    { path: 'data/', kind: 'directory', mode: 0o1777, uid: 5, gid: 6 },
    { path: 'data/stays', content: 'below' },
    { path: 'data/goes', content: 'below' },
    { path: 'data/is-replaced', content: 'below' },
    { path: 'data/folder/', kind: 'directory' },
    { path: 'data/folder/hidden', content: 'x' },
    { path: 'data/becomes-folder', content: 'x' },
    { path: 'data/becomes-file/', kind: 'directory' },
    { path: 'data/becomes-file/x', content: 'x' },
    { path: 'data/opaque/', kind: 'directory' },
    { path: 'data/opaque/old', content: 'x' },
    { path: 'data/shared', content: 'linked', mode: 0o640, uid: 7, gid: 8 },
    { path: 'etc/passwd', content: 'root:x:0:0::/:/bin/sh\napp:x:4242:4343::/:/bin/sh\n' },
    { path: 'etc/group', content: 'app:x:4343:\nmore:x:4444:app\n' },
  ]);
  const second = tarball([
    { path: 'data/.wh.goes' },
    { path: 'data/is-replaced', content: 'above', mode: 0o600, mtime: 1_500_000_000 },
    { path: 'data/.wh.folder' },
    { path: 'data/becomes-folder/', kind: 'directory' },
    { path: 'data/becomes-folder/y', content: 'y' },
    { path: 'data/.wh.becomes-file' },
    { path: 'data/becomes-file', content: 'now a file' },
    { path: 'data/opaque/', kind: 'directory', mode: 0o711 },
    { path: 'data/opaque/.wh..wh..opq' },
    { path: 'data/opaque/new', content: 'n' },
    { path: 'data/link', kind: 'hardlink', link: 'data/shared' },
    { path: 'data/symbolic', kind: 'symlink', link: 'stays' },
    { path: 'data/null', kind: 'char', major: 1, minor: 3, mode: 0o666 },
    { path: 'data/pipe', kind: 'fifo' },
    { path: 'data/é', content: 'name' },
  ]);
  const parts = [base, first, second].map((tar) => (Buffer.isBuffer(tar) ? tar : tar.tar));
  const layers = pack ? await Promise.all(parts.map(pack)) : parts.map((tar) => ({ tar }));
  await pushImage(lab.registry.address, APP, {
    layers,
    config: { Volumes: { '/data/becomes-folder': {} }, User: 'app' },
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
async function layersOf(registry: string, name: string, tag: string): Promise<{ tar: Buffer }> {
  const accept = 'application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json';
  const manifest = await fetch(`http://${registry}/v2/${name}/manifests/${tag}`, { headers: { accept } });
  const { layers } = (await manifest.json()) as { layers: { digest: string }[] };
  const { gunzipSync } = await import('node:zlib');
  const blob = await fetch(`http://${registry}/v2/${name}/blobs/${layers[0]?.digest}`);
  return { tar: gunzipSync(Buffer.from(await blob.arrayBuffer())) };
}

const LOOK = `cd /data && for f in * ; do stat -c '%n %F %a %u:%g %h' "$f"; done | sort; cat stays is-replaced becomes-file link
ls opaque becomes-folder; stat -c '%a %u:%g %Y' . is-replaced; id`;

/** What an overlay of the three layers shows; a folder's link count is the file system's own matter. */
const SEEN = [
  'becomes-file regular file 644 0:0 1',
  'becomes-folder directory 755 0:0',
  'is-replaced regular file 600 0:0 1',
  'link regular file 640 7:8 2',
  'null character special file 666 0:0 1',
  'opaque directory 711 0:0',
  'pipe fifo 644 0:0 1',
  'stays regular file 644 0:0 1',
];

/** Runs the image every way that Sluice offers, and takes everything away again. */
async function everyWay(lab: ContainerLab, pod: TestPod): Promise<void> {
  const { cri, daemon } = lab;
  const reference = `${lab.registry.address}/${APP}`;
  await lab.pull(reference);
  const own = await pod.run('own', ['sh', '-c', 'echo written >/tmp/mine; cat /tmp/mine; sleep 3600'], {}, reference);
  const seen = (await sh(cri, own, LOOK.replace('; id', '; id -u; id -g; id -G'))).split('\n');
  const entries = seen.filter((line) => / (?:file|directory|fifo|link) /.test(line));
  const plain = entries.map((line) => line.replace(/^(\S+ directory .*) \d+$/, '$1'));
  for (const line of SEEN.filter((one) => !one.startsWith('link ') && !one.startsWith('is-replaced')))
    assert.ok(plain.includes(line), `${line} is missing in\n${seen.join('\n')}`);
  assert.ok(!plain.some((line) => /^(?:goes|folder) /.test(line)), seen.join('\n'));
  const all = seen.join('\n');
  assert.match(all, /^is-replaced regular file 600 0:0/m);
  assert.match(all, /^link regular file 640 7:8/m);
  assert.match(all, /^1777 5:6 /m, 'the folder’s own mode and owner');
  assert.match(all, /^600 0:0 1500000000$/m);
  assert.match(all, /^4242\n4343\n4343 4444$/m, 'the user of the image’s own files');
  assert.match(all, /^opaque:\nnew$/m);
  assert.match(all, /^becomes-folder:\ny$/m, 'copied into the volume');

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
  const viewer = await pod.run('viewer', ['sh', '-c', 'cat /image/data/link; touch /image/x; true'], {
    mounts: [volume],
  });
  await exited(cri, viewer);
  assert.match(pod.log('viewer'), /linked/);
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

async function oneImage(
  t: TestContext,
  options: Parameters<typeof openContainerLab>[0],
  pack?: (tar: Buffer) => Promise<LayerParts>,
): Promise<ContainerLab> {
  const lab = await openContainerLab({ writable: true, ...options });
  t.after(() => lab[Symbol.asyncDispose]());
  await pushApp(lab, pack);
  const pod = await lab.pod('snap');
  await everyWay(lab, pod);
  await pod[Symbol.asyncDispose]();
  await lab.cri.removeImage({ image: imageSpec(`${lab.registry.address}/${APP}`) });
  await lab.daemon.assertNothingLeft();
  assert.deepEqual(readdirSync(join(lab.daemon.root, 'snapshots')), [], 'snapshots are left');
  return lab;
}

const stillListed = async (lab: ContainerLab) =>
  (await lab.cri.listImages()).images.flatMap(({ repoTags }) => repoTags).sort();

describe('snapshotters', { skip: SKIP }, () => {
  test('overlayfs', async (t) => {
    const lab = await oneImage(t, { index: 71 });
    assert.ok((await stillListed(lab)).includes(BUSYBOX));
  });

  test('native: copies of a tree', async (t) => {
    const lab = await oneImage(t, { index: 72, config: { images: { snapshotter: 'native' } } });
    // One tree for each image that is left: busybox and the pause image.
    assert.equal(readdirSync(join(lab.daemon.root, 'native')).length, 2);
  });

  test('native where there can be no overlay: on an overlay itself', async (t) => {
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
    t.after(() => {
      unmount(root);
      rmSync(folder, { recursive: true, force: true });
    });
    await oneImage(t, { index: 73, root, config: { images: { snapshotter: 'native' } } });
  });

  test('images of overlayfs are used by native without a second pull, and not the other way round', async (t) => {
    const lab = await openContainerLab({ index: 74 });
    t.after(() => lab[Symbol.asyncDispose]());
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
      const peer = await startContainerd({
        ...{ containerd, shim: program('containerd-shim-runc-v2'), runc: program('runc') },
        index: index + 20,
      });
      t.after(() => peer[Symbol.asyncDispose]());
      const proxy = { snapshotter: 'proxy', snapshotter_socket: peer.socket, snapshotter_name: name };
      const lab = await oneImage(t, { index, config: { images: proxy } });
      using client = new Snapshots({ socket: peer.socket, name });
      const layers = async () => (await client.list()).filter(({ committed }) => committed).length;
      assert.equal(await layers(), 1, 'busybox alone is left');
      await lab.cri.removeImage({ image: imageSpec(BUSYBOX) });
      await waitFor('the last layer to go', 10_000, async () =>
        (await client.list()).length === 0 ? true : undefined,
      );
      // A proxy that is gone is told, and costs no more than the call.
      await peer.stop();
      await assert.rejects(lab.pull(BUSYBOX), /the snapshotter at .*containerd\.sock/);
      await peer.start();
      await lab.pull(BUSYBOX);
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
    t.after(async () => {
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
      const { gunzipSync } = await import('node:zlib');
      return { tar: gunzipSync(blob), blob, toc };
    };
    const proxy = { snapshotter: 'proxy', snapshotter_socket: socket, snapshotter_name: 'stargz' };
    const lab = await oneImage(t, { index: 77, config: { images: proxy } }, pack);
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
