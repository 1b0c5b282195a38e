/**
 * Containers: their rows, their states, and the only place that changes a state.
 *
 *     creating ──▶ created ──▶ starting ──▶ running ──▶ exited ──▶ removing ──▶ (row deleted)
 *        │            │           └──────────────────────▲            ▲
 *        │            └──────────────────────────────────┴────────────┤
 *        └────────────────────────────────────────────────────────────┘
 *
 * `starting`: between the first request to the shim and `running`; CRI shows it as created. A start that fails ends in
 * `exited`, once nothing of its task is left. A removal that fails goes back to the state it came from.
 */
import type { ContainerConfig } from '../../../proto/gen/cri.ts';
import { nowNs } from '../../clock.ts';
import { SluiceError } from '../../errors.ts';
import type { Events } from './events.ts';
import type { Row, Table } from './table.ts';

export const CONTAINER_STATES = ['creating', 'created', 'starting', 'running', 'exited', 'removing'] as const;
export type ContainerState = (typeof CONTAINER_STATES)[number];

export interface ContainerRow extends Row {
  id: string;
  /** container_pod_namespace_uid_attempt. */
  name: string;
  sandbox: string;
  state: ContainerState;
  config: ContainerConfig;
  /** Id of the image (config digest). */
  image: string;
  /** Nanoseconds since the epoch, 0 for what has not happened. */
  createdAt: bigint;
  startedAt: bigint;
  finishedAt: bigint;
  exitCode: number;
  reason: string;
  message: string;
  pid: number;
  snapshot: string;
  bundle: string;
  rootDir: string;
  stateDir: string;
  /** Absolute path of the log; "" when the output is not kept. */
  logPath: string;
  /** FIFOs; a path is "" where the stream is not there. */
  io: { stdin: string; stdout: string; stderr: string };
  /** Who the first process is, as it was resolved. */
  user?: { uid: number; gid: number; groups: number[] };
  /** Mounts as ContainerStatus shows them, when they differ from the config's (image volumes with their digest). */
  imageMounts?: { containerPath: string; imageRef: string }[];
  /** Folders that image VOLUMEs were copied to, by path in the container. */
  volumes: Record<string, string>;
  cgroupsPath: string;
  /** The end is known, but the shim could not delete the task: why. Until it is gone the shim will not end either. */
  taskKept?: string;
  /** Name of the signal that StopContainer sends, of the request or the image. */
  stopSignal: string;
  cleanup?: { failed: string; attempts: number };
}

/** How a container ended. */
export interface End {
  exitCode: number;
  reason: string;
  message: string;
  /** Nanoseconds since the epoch; 0n: now. */
  at?: bigint;
}

/** The one writer of containers' states: each method checks the transition, stores the row and publishes the event. */
export class ContainerStates {
  readonly #table: Table<ContainerRow>;
  readonly #events: Events;

  constructor(table: Table<ContainerRow>, events: Events) {
    this.#table = table;
    this.#events = events;
  }

  /** Writes the row of a creation that begins. */
  creating(row: ContainerRow): void {
    check(row, 'creating', ['creating']);
    this.#table.put(row);
  }

  /** The creation is complete. */
  created(row: ContainerRow): void {
    this.#move(row, 'created', ['creating'], () => {
      row.createdAt = nowNs();
    });
    this.#events.publish('created', row.id, row.sandbox);
  }

  /** A start begins, or one that failed half-way is about to be taken back: `message` says why. */
  starting(row: ContainerRow, message = row.message): void {
    this.#move(row, 'starting', ['created', 'starting'], () => {
      row.message = message;
    });
  }

  /** The container's process runs. */
  running(row: ContainerRow): void {
    this.#move(row, 'running', ['starting'], () => {
      row.startedAt = nowNs();
    });
    this.#events.publish('started', row.id, row.sandbox);
  }

  /**
   * Stores how a running container ended while its log is drained and its task deleted; its state stays `running` until
   * {@link exited}.
   */
  noteEnd(row: ContainerRow, end: End): void {
    check(row, 'exited', ['running']);
    setEnd(row, end);
    this.#table.update(row);
  }

  /** The end is complete: `end`, or what {@link noteEnd} stored. */
  exited(row: ContainerRow, end?: End): void {
    this.#move(row, 'exited', ['created', 'starting', 'running'], () => {
      if (end) setEnd(row, end);
    });
    this.#events.publish('stopped', row.id, row.sandbox);
  }

  /** A removal begins. Returns the state to go back to when it fails. */
  removing(row: ContainerRow): ContainerState {
    const before = row.state;
    this.#move(row, 'removing', ['creating', 'created', 'exited', 'removing']);
    return before;
  }

  /** A removal failed: the container is again what it was, so that the removal can be tried again. */
  notRemoved(row: ContainerRow, before: ContainerState): void {
    this.#move(row, before, ['removing']);
  }

  /**
   * The undo of a creation, or a removal, has to be tried again: `reason` says why, `attempts` counts the retries so
   * far.
   */
  cleanUpPending(row: ContainerRow, reason: string, attempts = row.cleanup?.attempts ?? 0): void {
    this.#move(row, 'removing', ['creating', 'removing'], () => {
      row.cleanup = { failed: reason, attempts };
    });
  }

  /** Deletes the row: nothing of the container is left. An absent row is fine. */
  forget(row: ContainerRow): void {
    this.#table.delete(row.id);
  }

  /** Publishes that a removal, which deleted the row, is over. */
  removed(row: ContainerRow): void {
    this.#events.publish('deleted', row.id, row.sandbox);
  }

  #move(row: ContainerRow, to: ContainerState, from: readonly ContainerState[], change?: () => void): void {
    check(row, to, from);
    row.state = to;
    change?.();
    this.#table.update(row);
  }
}

function setEnd(row: ContainerRow, { exitCode, reason, message, at }: End): void {
  row.exitCode = exitCode;
  row.reason = reason;
  row.message = message;
  row.finishedAt = at || nowNs();
}

function check(row: ContainerRow, to: ContainerState, from: readonly ContainerState[]): void {
  if (from.includes(row.state)) return;
  throw new SluiceError('INTERNAL', `container ${row.id} cannot go from ${row.state} to ${to}`);
}
