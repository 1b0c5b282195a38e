import { SluiceError } from '../../../errors.ts';
import type { ImageRow } from '../../../node/images/rows.ts';
import { usernsRootOwner } from '../../../node/oci/pod-userns.ts';
import { stopSignal } from '../../../node/oci/signals.ts';
import type { User } from '../../../node/oci/types.ts';
import { containerUser, needsUserFiles } from '../../../node/oci/users.ts';
import type { ContainerRow } from '../../../node/store/container.ts';
import type { SandboxRow } from '../../../node/store/sandbox.ts';
import { resolveUser } from '../../../workers/image/users.ts';
import { required } from '../../engine/stage.ts';
import { containerSpec } from '../container-spec.ts';
import type { JobContext, JobState } from '../context.ts';
import { type HostLookups, lookUpHostPaths, namesHostPaths } from '../host-paths.ts';
import { imageVolumes } from '../image-volumes.ts';
import { pinnedShim } from '../pinned-shim.ts';
import { pinnedFiles } from '../pod-files.ts';
import { copyUp, removeVolumes } from '../volumes.ts';

/** The state of a container's creation. */
export interface ContainerCreation extends JobState<ContainerRow> {
  sandbox: SandboxRow;
  image?: ImageRow;
  user?: User;
  /** Image volumes: the folder on the host, by path in the container. */
  imageVolumes?: Record<string, string>;
  /** What is at the paths of the host that the request names. */
  host?: HostLookups;
  /** config.json, as text. */
  spec?: string;
}

/** The row is written before everything it names, and the name is released after everything is gone. */
export const reserve = {
  run({ ctx, row }: ContainerCreation): void {
    ctx.containerNames.take(row.name, row.id);
    ctx.containerStates.creating(row);
  },
  undo(row: ContainerRow, ctx: JobContext): void {
    ctx.containerStates.forget(row);
    ctx.containerNames.release(row.name, row.id);
  },
};

/** A container's image is never pulled here: kubelet does that first, with its own credentials and policy. */
export const image = {
  run(state: ContainerCreation): void {
    const { ctx, row } = state;
    const reference = row.config.image?.image ?? '';
    const found = ctx.images.find(reference);
    if (!found) throw SluiceError.of('IMAGE_NOT_FOUND', reference);
    if (found.artifact !== undefined)
      throw new SluiceError(
        'INVALID_REQUEST',
        `${reference} is an OCI artifact (${found.artifact}): it can be mounted as an image volume, and not run`,
      );
    state.image = found;
    row.image = found.id;
    row.stopSignal = stopSignal(row.config.stopSignal, found.config.StopSignal);
    ctx.store.containers.update(row);
  },
};

/**
 * The user and groups of the process; names are looked up in the image's own files, read from its layers without a
 * mount.
 */
export const user = {
  async run(state: ContainerCreation): Promise<void> {
    const { ctx, row } = state;
    const found = required(state.image, 'image');
    const request = containerUser(row.config.linux?.securityContext, found.config.User ?? '');
    state.user = needsUserFiles(request) ? await ctx.images.lookUpUser(found, request) : resolveUser(request, '', '');
    row.user = { uid: state.user.uid, gid: state.user.gid, groups: state.user.additionalGids ?? [] };
  },
};

/** Images that are mounted into the container, and the folders that its own image declares as volumes. */
export const volumes = {
  skip: ({ row, image }: ContainerCreation): boolean =>
    !row.config.mounts.some((mount) => mount.image) && Object.keys(image?.config.Volumes ?? {}).length === 0,
  async run(state: ContainerCreation): Promise<void> {
    const { ctx, row, sandbox } = state;
    state.imageVolumes = await imageVolumes(row, sandbox, ctx);
    row.volumes = await copyUp(row, required(state.image, 'image'), ctx);
  },
  undo: removeVolumes,
};

/**
 * The paths of the host that the request names. One that hangs costs this container and nothing else, so the stage
 * takes no slot.
 */
export const paths = {
  skip: ({ row }: ContainerCreation): boolean => !namesHostPaths(row.config),
  async run(state: ContainerCreation): Promise<void> {
    state.host = await lookUpHostPaths(state.row.config, state.ctx);
  },
};

/** The writable layer on top of the image's own. */
export const rootfs = {
  async run({ ctx, row, sandbox, image }: ContainerCreation): Promise<void> {
    const owner = usernsRootOwner(sandbox.config);
    await ctx.images.prepareSnapshot({ dir: row.snapshot, image: required(image, 'image'), owner });
  },
  async undo(row: ContainerRow, ctx: JobContext): Promise<void> {
    await ctx.images.removeSnapshot(row.snapshot);
  },
};

export const spec = {
  async run(state: ContainerCreation): Promise<void> {
    const { ctx, row, sandbox, imageVolumes, host } = state;
    const image = required(state.image, 'image');
    const user = required(state.user, 'user');
    state.spec = await containerSpec({ row, sandbox, image, user, imageVolumes, host }, ctx);
  },
};

/** The shim of a pinned sandbox starts with its first container; another sandbox has had one since its launch. */
export const shim = {
  skip: ({ sandbox }: ContainerCreation): boolean => sandbox.pinned === undefined,
  async run({ ctx, sandbox }: ContainerCreation): Promise<void> {
    await pinnedShim(sandbox, ctx);
  },
};

/**
 * hostname, hosts, resolv.conf and shm of a pinned sandbox: made with its first container, and removed with the pod.
 */
export const files = {
  skip: ({ sandbox }: ContainerCreation): boolean => !sandbox.pinned?.filesPending,
  run: ({ ctx, sandbox }: ContainerCreation): Promise<void> => pinnedFiles(sandbox, ctx),
};

/** The bundle that StartContainer hands to the pod's shim. */
export const bundle = {
  async run({ ctx, row, sandbox, spec }: ContainerCreation): Promise<void> {
    await ctx.pools.shim.call('writeBundle', {
      bundle: row.bundle,
      stateDir: row.stateDir,
      spec: required(spec, 'spec'),
      sandbox: sandbox.id,
      shim: required(sandbox.shim, 'shim'),
      group: usernsRootOwner(sandbox.config)?.gid,
    });
  },
  async undo(row: ContainerRow, ctx: JobContext): Promise<void> {
    ctx.specs.forget(row);
    const { bundle, stateDir, cgroupsPath } = row;
    await ctx.pools.shim.call('removeBundle', { bundle, stateDir, cgroupsPath });
  },
};

export const ready = {
  run({ ctx, row, sandbox }: ContainerCreation): void {
    if (sandbox.state !== 'ready') {
      throw new SluiceError('NOT_READY', `pod ${sandbox.id} stopped being ready while the container was made`);
    }
    ctx.containerStates.created(row);
  },
};
