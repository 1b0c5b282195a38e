/**
 * Sandboxes: their rows, their states, and the only place that changes a state.
 *
 *     creating ──▶ ready ──▶ stopped ──▶ removing ──▶ (row deleted)
 *        │           │          ▲            ▲
 *        │           ▼          │            │
 *        │        notready ─────┘            │
 *        └───────────────────────────────────┘  a launch that failed, or that a killed daemon left half-way
 *
 * `notready`: the processes are gone, the network and the rest are still held. The next start of the daemon undoes rows
 * that are `creating` or `removing`.
 *
 * A row is written before the resources it names exist and holds everything that their undo needs: the undo takes the
 * row, never memory of the launch.
 */
import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import { nowNs } from '../../clock.ts';
import { SluiceError } from '../../errors.ts';
import type { CniAttachment, CniResult } from '../../workers/net/types.ts';
import type { Events } from './events.ts';
import type { Row, Table } from './table.ts';

export const SANDBOX_STATES = ['creating', 'ready', 'notready', 'stopped', 'removing'] as const;
export type SandboxState = (typeof SANDBOX_STATES)[number];

export interface SandboxRow extends Row {
  /** 64 hex digits. */
  id: string;
  /** name_namespace_uid_attempt: the key of a launch, unique among all rows. */
  name: string;
  state: SandboxState;
  /** Nanoseconds since the epoch; 0 until ready. */
  createdAt: bigint;
  config: PodSandboxConfig;
  /** As the caller gave it; "" is the default. */
  runtimeHandler: string;
  /** The name in [runtimes] that the handler led to. */
  runtime: string;
  /** Path of the pinned network namespace; "" on the host network. */
  netns: string;
  /** Everything CNI DEL needs, written before ADD; absent on the host network, and again once DEL has succeeded. */
  network?: CniAttachment;
  /** What ADD answered. */
  result?: CniResult;
  /** Primary address first. */
  addresses: string[];
  /** Id of the sandbox image; "" until known. */
  image: string;
  /** Key of the writable snapshot. */
  snapshot: string;
  /** Folder of the bundle, under the state folder. */
  bundle: string;
  /** Folder with hostname, hosts and resolv.conf, under the root folder. */
  rootDir: string;
  /** Folder with shm, under the state folder. */
  stateDir: string;
  shim?: ShimRow;
  /** The shim has been seen to end, and nothing of it is left. */
  shimEnded?: boolean;
  /** Pid of the pause process, in the host's pid namespace; 0 until started. */
  pid: number;
  /** Pinned user namespace, for pods that have one of their own. */
  userns?: string;
  /** Set for a sandbox without a process of its own; undefined: a pause process holds its namespaces. */
  pinned?: PinnedSandbox;
  /** Clean-up that failed and is being retried, with the reason. */
  cleanup?: { failed: string; attempts: number };
}

/** A sandbox whose namespaces are held by bind mounts. Its shim starts with the first container. */
export interface PinnedSandbox {
  /** Paths of the pinned IPC and UTS namespaces; absent where the pod uses the host's. */
  ipc?: string;
  uts?: string;
  /** The machine's boot in which they were made: a reboot ends the sandbox. */
  bootId: string;
  /** Written before a shim is started, so that one which a killed daemon had just started is found. */
  shimStarted?: boolean;
  /** hostname, hosts, resolv.conf and shm come with the first container. Absent once they are there. */
  filesPending?: boolean;
}

/** How to reach a running shim. */
export interface ShimRow {
  /** Absolute path of the shim's program, for its `delete` action. */
  binary: string;
  /** Socket path, without a scheme. */
  address: string;
  /** Version of the task service it speaks. */
  version: 2 | 3;
  /**
   * Id of the pod that the shim was started for, where several pods share it; that pod may be gone. Absent: this pod.
   */
  leader?: string;
}

/** The one writer of sandboxes' states: each method checks the transition, stores the row and publishes the event. */
export class SandboxStates {
  readonly #table: Table<SandboxRow>;
  readonly #events: Events;

  constructor(table: Table<SandboxRow>, events: Events) {
    this.#table = table;
    this.#events = events;
  }

  /** Writes the row of a launch that begins. */
  creating(row: SandboxRow): void {
    check(row, 'creating', ['creating']);
    this.#table.put(row);
  }

  /** The launch is complete. */
  ready(row: SandboxRow): void {
    this.#move(row, 'ready', ['creating'], () => {
      row.createdAt = nowNs();
    });
    this.#events.publish('created', row.id, row.id);
    this.#events.publish('started', row.id, row.id);
  }

  /** The sandbox's processes have ended; its network and files are still held. */
  notReady(row: SandboxRow): void {
    this.#move(row, 'notready', ['ready']);
    this.#events.publish('stopped', row.id, row.id);
  }

  /** Processes and network are gone. */
  stopped(row: SandboxRow): void {
    const ran = row.state === 'ready';
    this.#move(row, 'stopped', ['ready', 'notready', 'stopped']);
    if (ran) this.#events.publish('stopped', row.id, row.id);
  }

  /** A removal begins. */
  removing(row: SandboxRow): void {
    this.#move(row, 'removing', ['stopped', 'removing']);
  }

  /**
   * The undo of a launch, or a removal, has to be tried again: `reason` says why, `attempts` counts the retries so far.
   */
  cleanUpPending(row: SandboxRow, reason: string, attempts = row.cleanup?.attempts ?? 0): void {
    this.#move(row, 'removing', ['creating', 'removing'], () => {
      row.cleanup = { failed: reason, attempts };
    });
  }

  /** Deletes the row: nothing of the sandbox is left. An absent row is fine. */
  forget(row: SandboxRow): void {
    this.#table.delete(row.id);
  }

  /** Publishes that a removal, which deleted the row, is over. */
  removed(row: SandboxRow): void {
    this.#events.publish('deleted', row.id, row.id);
  }

  #move(row: SandboxRow, to: SandboxState, from: readonly SandboxState[], change?: () => void): void {
    check(row, to, from);
    row.state = to;
    change?.();
    this.#table.update(row);
  }
}

function check(row: SandboxRow, to: SandboxState, from: readonly SandboxState[]): void {
  if (from.includes(row.state)) return;
  throw new SluiceError('INTERNAL', `sandbox ${row.id} cannot go from ${row.state} to ${to}`);
}
