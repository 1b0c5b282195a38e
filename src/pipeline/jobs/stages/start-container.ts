import { join } from 'node:path';
import { nowNs } from '../../../clock.ts';
import { idMapped, rootOf } from '../../../node/oci/pod-userns.ts';
import type { ContainerRow } from '../../../node/store/rows.ts';
import type { Node } from '../context.ts';
import type { ContainerStart } from '../creation.ts';
import { runtimeOptions } from '../runtime-options.ts';
import { cleanUpContainer, endTask, findShim } from '../shim-call.ts';

/** The FIFOs and the log, open before there is a process to write to them. */
export const io = {
  async run({ node, row }: ContainerStart): Promise<void> {
    await node.stdio.openIo(ioOf(node, row));
  },
  async undo(row: ContainerRow, node: Node): Promise<void> {
    await node.stdio.removeIo({ id: row.id, fifos: row.io });
  },
};

/** Task.Create: the shim mounts the rootfs and runs `runc create`. */
export const create = {
  async run({ node, row, sandbox, shim }: ContainerStart): Promise<void> {
    const runtime = node.runtimeOf(sandbox);
    const owner = rootOf(sandbox.config);
    row.state = 'starting';
    node.store.containers.put(row);
    row.pid = await shim.task.create({
      id: row.id,
      bundle: row.bundle,
      rootfs: idMapped(node.images.rootfsMounts(node.images.get(row.image), row.snapshot), sandbox.config),
      runtime: { ...runtimeOptions(node, runtime), ioUid: owner?.uid, ioGid: owner?.gid },
      terminal: row.config.tty,
      ...row.io,
    });
  },
  /**
   * A shim kills the runtime for a caller that has hung up, be it a daemon that died, and knows nothing of what that had made by then:
   * a container that waits for its start, or a process that still makes one. So a task that the shim does not know is looked for in
   * the runtime as well; then the shim is asked again, since it may have come to know it meanwhile.
   */
  async undo(row: ContainerRow, node: Node): Promise<void> {
    const sandbox = node.store.sandboxes.get(row.sandbox);
    const shim = sandbox && (await findShim(sandbox, node));
    if (shim && (await endTask(shim.task, row.id))) return;
    if (!sandbox || sandbox.shimEnded) return;
    await cleanUpContainer(row, sandbox, node);
    if (shim) await endTask(shim.task, row.id);
  },
};

export const start = {
  async run({ row, shim }: ContainerStart): Promise<void> {
    row.pid = await shim.task.start(row.id);
  },
};

export const running = {
  run({ node, row, shim }: ContainerStart): void {
    row.state = 'running';
    row.startedAt = nowNs();
    node.store.containers.put(row);
    node.monitor.watchContainer(row, shim);
    node.events.publish('started', row.id, row.sandbox);
  },
};

/** What the stdio worker needs to know of a container; said again after a restart of either. */
export function ioOf(node: Node, row: ContainerRow) {
  return {
    id: row.id,
    fifos: row.io,
    tty: row.config.tty,
    logPath: row.logPath,
    maxLine: node.config.log.max_container_line,
    stdinOnce: row.config.stdinOnce,
  };
}

/** FIFO paths of a container, "" for the streams it does not have. */
export function fifoPaths(stateDir: string, { stdin, tty }: { stdin: boolean; tty: boolean }) {
  const fifo = (name: string, wanted: boolean) => (wanted ? join(stateDir, name) : '');
  return { stdin: fifo('stdin', stdin), stdout: fifo('stdout', true), stderr: fifo('stderr', !tty) };
}
