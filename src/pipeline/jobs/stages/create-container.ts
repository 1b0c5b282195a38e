import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { nowNs } from '../../../clock.ts';
import { SluiceError } from '../../../errors.ts';
import { rootOf } from '../../../node/oci/pod-userns.ts';
import { stopSignal } from '../../../node/oci/signals.ts';
import { containerUser, needsUserFiles, resolveUser } from '../../../node/oci/users.ts';
import type { ContainerRow } from '../../../node/store/rows.ts';
import { containerSpec } from '../container-spec.ts';
import type { Node } from '../context.ts';
import type { ContainerCreation } from '../creation.ts';
import { imageVolumes } from '../image-volumes.ts';
import { filled } from '../launch.ts';
import { copyUp } from '../volumes.ts';

/** The name and the record, before everything the record names. */
export const reserve = {
  run({ node, row }: ContainerCreation): void {
    node.containerNames.take(row.name, row.id);
    node.store.containers.put(row);
  },
  undo(row: ContainerRow, node: Node): void {
    node.store.containers.delete(row.id);
    node.containerNames.release(row.name, row.id);
  },
};

/** A container's image is never pulled here: kubelet does that first, with its own credentials and policy. */
export const image = {
  run(state: ContainerCreation): void {
    const { node, row } = state;
    const reference = row.config.image?.image ?? '';
    const found = node.images.find(reference);
    if (!found) throw new SluiceError('IMAGE_NOT_FOUND', `image "${reference}" is not on this node`);
    state.image = found;
    row.image = found.id;
    row.stopSignal = stopSignal(row.config.stopSignal, found.config.StopSignal);
    node.store.containers.put(row);
  },
};

/** Who the process is; names are looked up in the image's own files, read from its layers without mounting anything. */
export const user = {
  async run(state: ContainerCreation): Promise<void> {
    const { node, row } = state;
    const found = filled(state.image, 'image');
    const request = containerUser(row.config.linux?.securityContext, found.config.User ?? '');
    const { passwd, group } = needsUserFiles(request) ? await node.images.userFiles(found) : { passwd: '', group: '' };
    state.user = resolveUser(request, passwd, group);
    row.user = { uid: state.user.uid, gid: state.user.gid, groups: state.user.additionalGids ?? [] };
  },
};

/** Images that are mounted into the container, and the folders that its own image declares as volumes. */
export const volumes = {
  skip: ({ row, image }: ContainerCreation): boolean =>
    !row.config.mounts.some((mount) => mount.image) && Object.keys(image?.config.Volumes ?? {}).length === 0,
  async run(state: ContainerCreation): Promise<void> {
    const { node, row, sandbox } = state;
    await mkdir(row.rootDir, { recursive: true, mode: 0o755 });
    state.imageVolumes = await imageVolumes(node, sandbox, row);
    row.volumes = await copyUp(node, row, filled(state.image, 'image'));
  },
  async undo(row: ContainerRow): Promise<void> {
    await rm(row.rootDir, { recursive: true, force: true }); // what `files` put there is gone by now
  },
};

/** The writable layer on top of the image's own. */
export const rootfs = {
  async run({ node, row, sandbox }: ContainerCreation): Promise<void> {
    await node.pools.shim.call('prepareSnapshot', { dir: row.snapshot, owner: rootOf(sandbox.config) });
  },
  async undo(row: ContainerRow, node: Node): Promise<void> {
    await node.pools.shim.call('removeSnapshot', { dir: row.snapshot });
  },
};

export const spec = {
  async run(state: ContainerCreation): Promise<void> {
    state.spec = await containerSpec(state);
  },
};

/** The bundle that StartContainer hands to the pod's shim. */
export const bundle = {
  async run({ node, row, sandbox, spec }: ContainerCreation): Promise<void> {
    await mkdir(row.stateDir, { recursive: true, mode: 0o700 });
    await node.pools.shim.call('writeBundle', {
      bundle: row.bundle,
      workDir: join(row.rootDir, 'work'),
      spec: filled(spec, 'spec'),
      sandbox: sandbox.id,
      shim: filled(sandbox.shim, 'shim'),
      group: rootOf(sandbox.config)?.gid,
    });
  },
  async undo(row: ContainerRow, node: Node): Promise<void> {
    node.specs.forget(row);
    await node.pools.shim.call('removeBundle', { bundle: row.bundle, workDir: join(row.rootDir, 'work') });
    await Promise.all([row.stateDir, row.rootDir].map((folder) => rm(folder, { recursive: true, force: true })));
  },
};

export const ready = {
  run({ node, row, sandbox }: ContainerCreation): void {
    if (sandbox.state !== 'ready') {
      throw new SluiceError('NOT_READY', `pod ${sandbox.id} stopped being ready while the container was made`);
    }
    row.state = 'created';
    row.createdAt = nowNs();
    node.store.containers.put(row);
    node.events.publish('created', row.id, row.sandbox);
  },
};
