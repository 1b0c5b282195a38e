/** The stages of RunPodSandbox in the order of their table, each with its undo; the teardown of a pod uses the same undos. */
import { join } from 'node:path';
import { NamespaceMode } from '../../../../proto/gen/cri.ts';
import { explain, SluiceError } from '../../../errors.ts';
import type { RuntimeConfig } from '../../../node/config/config.ts';
import type { ImageRow } from '../../../node/images/rows.ts';
import { addresses } from '../../../node/network/addresses.ts';
import { encodeSpec } from '../../../node/oci/encode.ts';
import { podNamespaceOptions } from '../../../node/oci/namespaces.ts';
import { idMapped, usernsRootOwner } from '../../../node/oci/pod-userns.ts';
import { readSeccomp } from '../../../node/oci/read-seccomp.ts';
import { buildSandboxSpec } from '../../../node/oci/sandbox.ts';
import { userNamespace } from '../../../node/oci/userns.ts';
import { needsUserFiles, resolveUser, sandboxUser } from '../../../node/oci/users.ts';
import type { Shim } from '../../../node/shims/shims.ts';
import type { SandboxRow } from '../../../node/store/sandbox.ts';
import type { DirectStart } from '../../../workers/shim/direct.ts';
import { required } from '../../engine/stage.ts';
import { featuresOf, type JobContext, type JobState } from '../context.ts';
import { unmountImageVolumes } from '../image-volumes.ts';
import { cleanUpPodShim, endPodShim, shimCall } from '../pod-shim.ts';
import { runtimeOptions } from '../runtime-options.ts';

/** Seconds that a shim may take until it answers; a loaded node takes one where an idle one takes 15 ms. */
const SHIM_START_SECONDS = 20;

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
 * The pod's network namespace, pinned under its recorded path with `lo` up; inside the pod's own user namespace, pinned beside it,
 * when it has one. Pods on the host network have none.
 */
export const netns = {
  skip: ({ row }: PodLaunch): boolean => row.netns === '',
  async run({ ctx, row }: PodLaunch): Promise<void> {
    const userns = userNamespace(podNamespaceOptions(row.config));
    await ctx.pools.net.call('createNetns', {
      path: row.netns,
      loopback: ctx.config.cni.loopback === 'builtin',
      userns: userns && row.userns ? { path: row.userns, ...userns } : undefined,
    });
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    if (row.netns !== '') await ctx.pools.net.call('removeNetns', { path: row.netns, userns: row.userns });
  },
};

/** CNI. The row holds the configuration that ADD is called with, so DEL is called alike whatever the folder contains by then. */
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
  async run(state: PodLaunch): Promise<void> {
    const { ctx, row } = state;
    const reference = ctx.images.sandboxImage;
    state.image = ctx.images.find(reference) ?? (await state.pull(reference));
    row.image = state.image.id;
  },
};

/** The writable layer on top of the image's own. */
export const rootfs = {
  async run({ ctx, row }: PodLaunch): Promise<void> {
    await ctx.pools.shim.call('prepareSnapshot', { dir: row.snapshot, owner: usernsRootOwner(row.config) });
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    await ctx.pools.shim.call('removeSnapshot', { dir: row.snapshot });
  },
};

/** The pod's own files: hostname, hosts and resolv.conf under the root folder, shm under the state folder. */
export const files = {
  async run({ ctx, row }: PodLaunch): Promise<void> {
    const { hostname, dnsConfig, linux } = row.config;
    const namespaces = linux?.securityContext?.namespaceOptions;
    await ctx.pools.shim.call('sandboxFiles', {
      rootDir: row.rootDir,
      stateDir: row.stateDir,
      hostname: hostname || ctx.host.hostname,
      dns: dnsConfig,
      hostIpc: namespaces?.ipc === NamespaceMode.NODE,
      owner: usernsRootOwner(row.config),
    });
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    await unmountImageVolumes(row, ctx);
    await ctx.pools.shim.call('removeSandboxFiles', { rootDir: row.rootDir, stateDir: row.stateDir });
  },
};

/** The pause container's OCI spec, which the pure builder in src/node/oci makes; the stage reads what it needs of the disk. */
export const spec = {
  async run(state: PodLaunch): Promise<void> {
    const { ctx, row, runtime } = state;
    const image = required(state.image, 'image');
    const context = row.config.linux?.securityContext;
    const request = sandboxUser(context, image.config.User ?? '');
    const { passwd, group } = needsUserFiles(request) ? await ctx.images.userFiles(image) : { passwd: '', group: '' };
    const hostIpc = podNamespaceOptions(row.config)?.ipc === NamespaceMode.NODE;
    state.spec = encodeSpec(
      buildSandboxSpec({
        id: row.id,
        config: row.config,
        image: { reference: ctx.images.sandboxImage, config: image.config },
        user: resolveUser(request, passwd, group),
        netns: row.netns,
        userns: row.userns,
        shm: hostIpc ? '/dev/shm' : join(row.stateDir, 'shm'),
        resolvConf: join(row.rootDir, 'resolv.conf'),
        openFiles: ctx.openFiles,
        podAnnotations: runtime.pod_annotations,
        seccomp: await readSeccomp(context?.seccomp, context?.seccompProfilePath ?? '', context?.privileged ?? false),
        features: featuresOf(row, ctx),
        host: ctx.host,
      }),
    );
  },
};

/** The bundle and the process that holds the pod. */
export const shim = {
  async run(state: PodLaunch): Promise<void> {
    const { ctx, row, runtime } = state;
    const { directStarts } = ctx.shims;
    const direct = runtime.shim_start === 'auto' ? directStarts.eligible(runtime.shim) : undefined;
    try {
      state.shim = await startShim(state, direct);
    } catch (error) {
      if (!direct || !directStarts.directFailed(direct)) throw error;
      ctx.log.warn(
        { sandbox: row.id, shim: direct.key, reason: explain(error) },
        'this shim cannot be started without its start command, which is used from now on',
      );
      await cleanUpPodShim(row, ctx);
      await removeBundle(row, ctx);
      state.shim = await startShim(state, undefined);
    }
  },
  async undo(row: SandboxRow, ctx: JobContext): Promise<void> {
    await endPodShim(row, ctx);
    ctx.specs.forget(row);
    await removeBundle(row, ctx);
  },
};

/** Task.Create of the pause container: the shim mounts the rootfs and runs `runc create`. The undo of `shim` ends it. */
export const create = {
  async run({ ctx, row, runtime, shim, image }: PodLaunch): Promise<void> {
    row.pid = await required(shim, 'shim').task.create({
      id: row.id,
      bundle: row.bundle,
      rootfs: idMapped(ctx.images.rootfsMounts(required(image, 'image'), row.snapshot), row.config),
      runtime: runtimeOptions(ctx, runtime),
    });
  },
};

/** Task.Start: `runc start`. */
export const start = {
  async run({ row, shim }: PodLaunch): Promise<void> {
    row.pid = await required(shim, 'shim').task.start(row.id);
  },
};

/** The pod is complete: its row is ready, its events are published, its end is watched. */
export const ready = {
  run({ ctx, row, shim }: PodLaunch): void {
    ctx.sandboxStates.ready(row);
    ctx.exits.watchSandbox(row, required(shim, 'shim'));
  },
};

/** Starts the shim and waits for its first answer. */
async function startShim({ ctx, row, runtime, spec }: PodLaunch, direct: DirectStart | undefined): Promise<Shim> {
  const timeoutMs = SHIM_START_SECONDS * 1000;
  const { child, spawnSeconds, key, ...started } = await ctx.pools.shim.call('startShim', {
    ...shimCall(ctx, row.id),
    bundle: row.bundle,
    workDir: join(row.rootDir, 'work'),
    binary: runtime.shim,
    group: usernsRootOwner(row.config)?.gid,
    spec: required(spec, 'spec'),
    socketDir: ctx.shimSocketDir,
    timeoutMs,
    direct,
  });
  ctx.metrics.observe('spawn', { kind: 'shim' }, spawnSeconds);
  const { binary, address, version } = started;
  row.shim = { binary, address, version };
  ctx.store.sandboxes.update(row);
  const shim = await ctx.shims.connect(row.id, row.shim, { child, timeoutMs });
  if (child === undefined) ctx.shims.directStarts.commandSucceeded(runtime.shim, { key, version: shim.task.version });
  else if (direct) ctx.shims.directStarts.directSucceeded(direct);
  return shim;
}

function removeBundle({ bundle, rootDir }: SandboxRow, ctx: JobContext): Promise<void> {
  return ctx.pools.shim.call('removeBundle', { bundle, workDir: join(rootDir, 'work') });
}
