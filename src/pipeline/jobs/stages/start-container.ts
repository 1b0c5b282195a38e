import { join } from 'node:path';
import { idMapped, usernsRootOwner } from '../../../node/oci/pod-userns.ts';
import type { Shim } from '../../../node/shims/shims.ts';
import type { ContainerRow } from '../../../node/store/container.ts';
import type { SandboxRow } from '../../../node/store/sandbox.ts';
import { type JobContext, type JobState, runtimeOf } from '../context.ts';
import { cleanUpContainer, endTask, findShim } from '../pod-shim.ts';
import { runtimeOptions } from '../runtime-options.ts';

/** The state of a container's start. */
export interface ContainerStart extends JobState<ContainerRow> {
  sandbox: SandboxRow;
  shim: Shim;
}

/** The FIFOs and the log, open before a process writes to them. */
export const io = {
  async run({ ctx, row }: ContainerStart): Promise<void> {
    await ctx.stdio.openIo(ioOf(row, ctx));
  },
  async undo(row: ContainerRow, ctx: JobContext): Promise<void> {
    await ctx.stdio.removeIo({ id: row.id, fifos: row.io });
  },
};

/** Task.Create: the shim mounts the rootfs and runs `runc create`. */
export const create = {
  async run({ ctx, row, sandbox, shim }: ContainerStart): Promise<void> {
    const runtime = runtimeOf(sandbox, ctx);
    const owner = usernsRootOwner(sandbox.config);
    ctx.containerStates.starting(row);
    row.pid = await shim.task.create({
      id: row.id,
      bundle: row.bundle,
      rootfs: idMapped(await ctx.images.rootfsMounts(ctx.images.get(row.image), row.snapshot), sandbox.config),
      runtime: { ...runtimeOptions(ctx, runtime), ioUid: owner?.uid, ioGid: owner?.gid },
      terminal: row.config.tty,
      ...row.io,
    });
  },
  /**
   * A shim whose caller hangs up (a daemon that died) kills the runtime and lists no task, but the runtime may have
   * made a container by then, or a process of it may still be making one. So a task that the shim does not list is
   * removed from the runtime as well, and the shim is asked once more, since the task may have been listed meanwhile.
   */
  async undo(row: ContainerRow, ctx: JobContext): Promise<void> {
    const sandbox = ctx.store.sandboxes.get(row.sandbox);
    const shim = sandbox && (await findShim(sandbox, ctx));
    if (shim && (await endTask(shim.task, row, ctx))) return;
    if (!sandbox || sandbox.shimEnded) return;
    await cleanUpContainer(row, sandbox, ctx);
    if (shim) await endTask(shim.task, row, ctx);
  },
};

export const start = {
  async run({ row, shim }: ContainerStart): Promise<void> {
    row.pid = await shim.task.start(row.id);
  },
};

export const running = {
  run({ ctx, row, shim }: ContainerStart): void {
    ctx.containerStates.running(row);
    ctx.exits.watchContainer(row, shim);
  },
};

/** A container's registration with the stdio worker, made at its start and again after a restart of the daemon. */
export function ioOf(row: ContainerRow, ctx: JobContext) {
  return {
    id: row.id,
    fifos: row.io,
    tty: row.config.tty,
    logPath: row.logPath,
    maxLine: ctx.config.log.max_container_line,
    stdinOnce: row.config.stdinOnce,
  };
}

/** FIFO paths of a container, "" for the streams it does not have. */
export function fifoPaths(stateDir: string, { stdin, tty }: { stdin: boolean; tty: boolean }) {
  const fifo = (name: string, wanted: boolean) => (wanted ? join(stateDir, name) : '');
  return { stdin: fifo('stdin', stdin), stdout: fifo('stdout', true), stderr: fifo('stderr', !tty) };
}
