/**
 * The stages of RunPodSandbox in the order of their table, each with its undo; the teardown of a pod uses the same
 * undos.
 */
import { join } from 'node:path';
import { NamespaceMode } from '../../../../proto/gen/cri.ts';
import { SluiceError } from '../../../errors.ts';
import type { RuntimeConfig } from '../../../node/config/config.ts';
import type { ImageRow } from '../../../node/images/rows.ts';
import { addresses } from '../../../node/network/addresses.ts';
import { encodeSpec } from '../../../node/oci/encode.ts';
import { ownNamespaces, podNamespaceOptions } from '../../../node/oci/namespaces.ts';
import { idMapped, usernsRootOwner } from '../../../node/oci/pod-userns.ts';
import { buildSandboxSpec } from '../../../node/oci/sandbox.ts';
import { podSysctls } from '../../../node/oci/sysctls.ts';
import { userNamespace } from '../../../node/oci/userns.ts';
import { needsUserFiles, sandboxUser } from '../../../node/oci/users.ts';
import type { Shim } from '../../../node/shims/shims.ts';
import type { SandboxRow } from '../../../node/store/sandbox.ts';
import { resolveUser } from '../../../workers/image/users.ts';
import { required } from '../../engine/stage.ts';
import { featuresOf, type JobContext, type JobState } from '../context.ts';
import { localhostSeccomp } from '../host-paths.ts';
import { unmountImageVolumes } from '../image-volumes.ts';
import { makePodFiles } from '../pod-files.ts';
import { endPodShim, removePodBundle, startPodShim } from '../pod-shim.ts';
import { runtimeOptions } from '../runtime-options.ts';

/** The state of a pod launch. Whatever an undo needs is in `row`; the rest may be lost at any moment. */
export interface PodLaunch extends JobState<SandboxRow> {
  runtime: RuntimeConfig;
  /** Pulls an image that is not on the node, together with everyone else who lacks it. */
  pull: (image: string) => Promise<ImageRow>;
  image?: ImageRow;
  /** config.json, as text. */
  spec?: string;
  shim?: Shim;
}

/** A pinned sandbox has no process, so it needs neither image nor rootfs, spec, shim or task; files come later. */
function isPinned({ row }: PodLaunch): boolean {
  return row.pinned !== undefined;
}

/** The row is written before everything it names, and the name is released after everything is gone. */
export const reserve = {
  run({ ctx, row }: PodLaunch): void {
    ctx.sandboxNames.take(row.name, row.id);
    ctx.sandboxStates.creating(row);
  },
  undo(row: SandboxRow, ctx: JobContext): void {
    ctx.sandboxStates.forget(row);
    ctx.sandboxNames.release(row.name, row.id);
  },
};

/**
 * The pod's network namespace, pinned under its recorded path with `lo` up; inside the pod's own user namespace, pinned
 * beside it, when it has one. A pinned sandbox has its IPC and UTS namespaces made here as well, with hostname and
 * sysctls set. Pods on the host network have none.
 */
export const netns = {
  skip: ({ row }: PodLaunch): boolean => row.netns === '' && !row.pinned?.ipc,
  async run({ ctx, row }: PodLaunch): Promise<void> {
    const loopback = ctx.config.cni.loopback === 'builtin';
    if (row.pinned) {
      const { hostname, linux } = row.config;
      const { ipc, uts } = row.pinned;
      await ctx.pools.net.call('pinNamespaces', {
        paths: { ...(row.netns && { net: row.netns }), ...(ipc && { ipc }), ...(uts && { uts }) },
        loopback,
        hostname,
        sysctls: podSysctls(linux?.sysctls ?? {}, ownNamespaces(row.config)),
      });
      return;
    }
    const userns = userNamespace(podNamespaceOptions(row.config));
    await ctx.pools.net.call('createNetns', {
      path: row.netns,
      loopback,
      userns: userns && row.userns ? { path: row.userns, ...userns } : undefined,
    });
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    const paths = [row.netns, row.userns, row.pinned?.ipc, row.pinned?.uts].filter((path) => path !== undefined);
    await ctx.pools.net.call('unpinNamespaces', { paths: paths.filter((path) => path !== '') });
  },
};

/**
 * CNI. The row holds the configuration that ADD is called with, so DEL is called alike whatever the folder contains by
 * then.
 */
export const network = {
  skip: ({ row }: PodLaunch): boolean => row.network === undefined,
  async run({ ctx, row }: PodLaunch): Promise<void> {
    const { network: attachment } = row;
    if (!attachment) return;
    row.result = await ctx.network.add(attachment);
    row.addresses = addresses(row.result, attachment.ifName);
    if (row.addresses.length === 0) {
      const { name } = attachment.network;
      throw new SluiceError('CNI_FAILED', `network ${name} gave the pod no address on ${attachment.ifName}`);
    }
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    if (!row.network) return;
    await ctx.network.del(row.network);
    row.network = undefined;
    ctx.store.sandboxes.update(row);
  },
};

/** The sandbox image: on the node almost always, pulled when not. */
export const image = {
  skip: isPinned,
  async run(state: PodLaunch): Promise<void> {
    const { ctx, row } = state;
    const reference = ctx.images.sandboxImage;
    state.image = ctx.images.find(reference) ?? (await state.pull(reference));
    row.image = state.image.id;
  },
};

/** The writable layer on top of the image's own. */
export const rootfs = {
  skip: isPinned,
  async run({ ctx, row, image }: PodLaunch): Promise<void> {
    const owner = usernsRootOwner(row.config);
    await ctx.images.prepareSnapshot({ dir: row.snapshot, image: required(image, 'image'), owner });
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    if (!row.pinned) await ctx.images.removeSnapshot(row.snapshot);
  },
};

/**
 * The pod's own files: hostname, hosts and resolv.conf under the root folder, shm under the state folder. Those of a
 * pinned sandbox come with its first container.
 */
export const files = {
  skip: isPinned,
  run: ({ ctx, row }: PodLaunch): Promise<void> => makePodFiles(row, ctx),
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    await unmountImageVolumes(row, ctx);
    await ctx.pools.shim.call('removeSandboxFiles', { rootDir: row.rootDir, stateDir: row.stateDir });
  },
};

/**
 * The pause container's OCI spec, which the pure builder in src/node/oci makes; the stage reads what it needs of the
 * disk.
 */
export const spec = {
  skip: isPinned,
  async run(state: PodLaunch): Promise<void> {
    const { ctx, row, runtime } = state;
    const image = required(state.image, 'image');
    const context = row.config.linux?.securityContext;
    const request = sandboxUser(context, image.config.User ?? '');
    const hostIpc = podNamespaceOptions(row.config)?.ipc === NamespaceMode.NODE;
    state.spec = encodeSpec(
      buildSandboxSpec({
        id: row.id,
        config: row.config,
        image: { reference: ctx.images.sandboxImage, config: image.config },
        user: needsUserFiles(request) ? await ctx.images.lookUpUser(image, request) : resolveUser(request, '', ''),
        netns: row.netns,
        userns: row.userns,
        shm: hostIpc ? '/dev/shm' : join(row.stateDir, 'shm'),
        resolvConf: join(row.rootDir, 'resolv.conf'),
        openFiles: ctx.openFiles,
        podAnnotations: runtime.pod_annotations,
        seccomp: await localhostSeccomp(context, ctx),
        features: featuresOf(row, ctx),
        host: ctx.host,
      }),
    );
  },
};

/** The bundle and the process that runs the pod's containers. A pinned sandbox gets it with its first container. */
export const shim = {
  skip: isPinned,
  async run(state: PodLaunch): Promise<void> {
    const { ctx, row, runtime } = state;
    state.shim = await startPodShim(row, runtime, required(state.spec, 'spec'), ctx);
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    await endPodShim(row, ctx);
    if (row.pinned && !row.pinned.shimStarted) return;
    ctx.specs.forget(row);
    await removePodBundle(row, ctx);
  },
};

/**
 * Task.Create of the pause container: the shim mounts the rootfs and runs `runc create`. Its undo ends task and shim,
 * so that the snapshot, on which `create` is built too, is removed after what has it mounted.
 */
export const create = {
  skip: isPinned,
  async run({ ctx, row, runtime, shim, image }: PodLaunch): Promise<void> {
    row.pid = await required(shim, 'shim').task.create({
      id: row.id,
      bundle: row.bundle,
      rootfs: idMapped(await ctx.images.rootfsMounts(required(image, 'image'), row.snapshot), row.config),
      runtime: runtimeOptions(ctx, runtime),
    });
  },
  undo: endPodShim,
};

/** Task.Start: `runc start`. */
export const start = {
  skip: isPinned,
  async run({ row, shim }: PodLaunch): Promise<void> {
    row.pid = await required(shim, 'shim').task.start(row.id);
  },
};

/** The pod is complete: its row is ready, its events are published, its end is watched. */
export const ready = {
  run({ ctx, row, shim }: PodLaunch): void {
    ctx.sandboxStates.ready(row);
    if (!row.pinned) ctx.exits.watchSandbox(row, required(shim, 'shim'));
  },
};
