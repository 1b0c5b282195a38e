/**
 * The task service of one shim, typed. Versions 2 and 3 differ in the service's name alone; a shim knows one of them.
 * Errors carry the shim's own words, which for a runtime's failure are runc's own.
 */

import type { Any } from '../../../proto/gen/google/protobuf/any.ts';
import { Empty } from '../../../proto/gen/google/protobuf/empty.ts';
import type { Timestamp } from '../../../proto/gen/google/protobuf/timestamp.ts';
import { Options } from '../../../proto/gen/runc_options.ts';
import * as proto from '../../../proto/gen/task.ts';
import { Status } from '../../../proto/gen/task_types.ts';
import type { Mount } from '../../../proto/gen/types.ts';
import { type ErrorCode, GRPC, SluiceError } from '../../errors.ts';
import { encodeSpec } from '../oci/encode.ts';
import type { Process, Resources } from '../oci/types.ts';
import { type Method, type TtrpcClient, TtrpcClosed, TtrpcError } from './ttrpc-client.ts';

const SERVICE = { 2: 'containerd.task.v2.Task', 3: 'containerd.task.v3.Task' } as const;

function method<Req, Res>(name: string, request: proto.MessageFns<Req>, response: proto.MessageFns<Res>) {
  return { name, request, response } satisfies Method<Req, Res>;
}

const METHODS = {
  state: method('State', proto.StateRequest, proto.StateResponse),
  create: method('Create', proto.CreateTaskRequest, proto.CreateTaskResponse),
  start: method('Start', proto.StartRequest, proto.StartResponse),
  delete: method('Delete', proto.DeleteRequest, proto.DeleteResponse),
  kill: method('Kill', proto.KillRequest, Empty),
  exec: method('Exec', proto.ExecProcessRequest, Empty),
  resizePty: method('ResizePty', proto.ResizePtyRequest, Empty),
  closeIo: method('CloseIO', proto.CloseIORequest, Empty),
  update: method('Update', proto.UpdateTaskRequest, Empty),
  wait: method('Wait', proto.WaitRequest, proto.WaitResponse),
  connect: method('Connect', proto.ConnectRequest, proto.ConnectResponse),
  shutdown: method('Shutdown', proto.ShutdownRequest, Empty),
};

/** The OCI runtime behind the shim. */
export interface RuntimeOptions {
  /** Name to look up in the shim's PATH, or absolute path; "" is runc. */
  binary: string;
  /** The runtime's --root; the shim appends its namespace. */
  root: string;
  /** cgroups through systemd: the spec's cgroupsPath must then be `slice:prefix:name`, or runc refuses. */
  systemdCgroup: boolean;
  /** Owner of the stdio pipes that the shim makes, for pods with a user namespace. */
  ioUid?: number;
  ioGid?: number;
}

/** FIFO paths, or "" for /dev/null. With a terminal, stderr must be "". */
export interface ProcessStdio {
  terminal?: boolean;
  stdin?: string;
  stdout?: string;
  stderr?: string;
}

export interface CreateTask extends ProcessStdio {
  id: string;
  bundle: string;
  /** Mounted by the shim on <bundle>/rootfs, in order; empty when the rootfs is there already. */
  rootfs: Mount[];
  runtime: RuntimeOptions;
  /** Folder of a checkpoint to restore from. */
  checkpoint?: string;
}

export interface ExecTask extends ProcessStdio {
  id: string;
  execId: string;
  process: Process;
}

/** How a process ended. A signal is 128 + its number. `at`: nanoseconds since the epoch. */
export interface Exit {
  exitStatus: number;
  at: bigint;
}

export type TaskStatus = 'unknown' | 'created' | 'running' | 'stopped' | 'paused' | 'pausing';

export interface TaskState extends Exit {
  status: TaskStatus;
  pid: number;
  bundle: string;
}

const STATUS: Record<number, TaskStatus> = {
  [Status.CREATED]: 'created',
  [Status.RUNNING]: 'running',
  [Status.STOPPED]: 'stopped',
  [Status.PAUSED]: 'paused',
  [Status.PAUSING]: 'pausing',
};

/** Default limit of calls that run the OCI runtime, in milliseconds; a loaded node takes seconds. */
const RUNTIME_MS = 120_000;
/** Default limit of calls that the shim answers by itself. */
const SHIM_MS = 10_000;

/** Told of each call of a shim when it is over, with its seconds, failed or not. */
export type OnCall = (method: string, seconds: number) => void;

/**
 * Every method takes a time limit in milliseconds as its last parameter and rejects with a SluiceError: RUNTIME_FAILED (the
 * runtime's own words), SHIM_FAILED (the shim is gone; whether it did the work is not known), TIMED_OUT, CONTAINER_NOT_FOUND,
 * NOT_READY (for example: exec in a container whose first process has ended).
 */
export class Task {
  readonly #connection: TtrpcClient;
  readonly #pod: string;
  readonly #onCall: OnCall | undefined;
  #version: 2 | 3;

  /** `pod` is for messages. */
  constructor(connection: TtrpcClient, version: 2 | 3, pod: string, onCall?: OnCall) {
    this.#onCall = onCall;
    this.#connection = connection;
    this.#version = version;
    this.#pod = pod;
  }

  /** The version that the shim answers to; may differ from what the constructor got once a call was made. */
  get version(): 2 | 3 {
    return this.#version;
  }

  /** Undefined when the shim does not know the task or the exec. */
  async state(id: string, execId = '', timeoutMs = SHIM_MS): Promise<TaskState | undefined> {
    const answer = await this.#unlessMissing(METHODS.state, { id, execId }, timeoutMs);
    if (!answer) return undefined;
    const { status, pid, bundle, exitStatus, exitedAt } = answer;
    return { status: STATUS[status] ?? 'unknown', pid, bundle, exitStatus, at: nanoseconds(exitedAt) };
  }

  /** `runc create`: mounts the rootfs and sets the container up, paused before its first process. Answers with that pid. */
  async create(task: CreateTask, timeoutMs = RUNTIME_MS): Promise<number> {
    const { pid } = await this.#call(METHODS.create, createRequest(task), timeoutMs);
    return pid;
  }

  /** `runc start`, or `runc exec` for an exec that {@link exec} registered. Answers with the pid. */
  async start(id: string, execId = '', timeoutMs = RUNTIME_MS): Promise<number> {
    const { pid } = await this.#call(METHODS.start, { id, execId }, timeoutMs);
    return pid;
  }

  /**
   * Forgets an ended task or exec; undefined when the shim had forgotten it already, which is the same to us: an earlier
   * Delete may have done its work after we gave up on it.
   */
  async delete(id: string, execId = '', timeoutMs = RUNTIME_MS): Promise<Exit | undefined> {
    const answer = await this.#unlessMissing(METHODS.delete, { id, execId }, timeoutMs);
    return answer && { exitStatus: answer.exitStatus, at: nanoseconds(answer.exitedAt) };
  }

  /** False when there is no such process any more. `all` signals every process of the container. */
  async kill(
    id: string,
    signal: number,
    { execId = '', all = false }: { execId?: string; all?: boolean } = {},
    timeoutMs = SHIM_MS,
  ): Promise<boolean> {
    return (await this.#unlessMissing(METHODS.kill, { id, execId, signal, all }, timeoutMs)) !== undefined;
  }

  /** Registers an exec; {@link start} runs it. */
  async exec(exec: ExecTask, timeoutMs = SHIM_MS): Promise<void> {
    const { id, execId, terminal = false, stdin = '', stdout = '', stderr = '' } = exec;
    const spec = json('Process', exec.process);
    await this.#call(METHODS.exec, { id, execId, terminal, stdin, stdout, stderr, spec }, timeoutMs);
  }

  async resizePty(id: string, execId: string, size: { width: number; height: number }, timeoutMs = SHIM_MS) {
    await this.#call(METHODS.resizePty, { id, execId, ...size }, timeoutMs);
  }

  /** Closes the shim's own end of stdin, so that the process reads EOF once ours is closed too. False: no such process. */
  async closeStdin(id: string, execId = '', timeoutMs = SHIM_MS): Promise<boolean> {
    return (await this.#unlessMissing(METHODS.closeIo, { id, execId, stdin: true }, timeoutMs)) !== undefined;
  }

  /** `resources` is the OCI `linux.resources` object. */
  async update(id: string, resources: Resources, annotations: Record<string, string> = {}, timeoutMs = RUNTIME_MS) {
    await this.#call(METHODS.update, { id, resources: json('LinuxResources', resources), annotations }, timeoutMs);
  }

  /**
   * Answers when the process has ended, at once if it has already; without a limit unless one is given. A connection that
   * is lost meanwhile rejects with SHIM_FAILED.
   */
  async wait(id: string, execId = '', timeoutMs?: number): Promise<Exit> {
    const { exitStatus, exitedAt } = await this.#call(METHODS.wait, { id, execId }, timeoutMs);
    return { exitStatus, at: nanoseconds(exitedAt) };
  }

  /** Pid of the shim, and of the task (0 when it has none). */
  async connect(id: string, timeoutMs = SHIM_MS): Promise<{ shimPid: number; taskPid: number }> {
    const { shimPid, taskPid } = await this.#call(METHODS.connect, { id }, timeoutMs);
    return { shimPid, taskPid };
  }

  /** Asks the shim to exit; it does nothing while it holds a task. Use {@link Shims.shutdown}, which waits for the end. */
  async shutdown(id: string, timeoutMs = SHIM_MS): Promise<void> {
    await this.#call(METHODS.shutdown, { id, now: false }, timeoutMs);
  }

  async #unlessMissing<Req, Res>(method: Method<Req, Res>, request: Req, timeoutMs: number): Promise<Res | undefined> {
    try {
      return await this.#send(method, request, timeoutMs);
    } catch (error) {
      if (error instanceof TtrpcError && error.code === GRPC.NOT_FOUND) return undefined;
      throw this.#wrap(method.name, error);
    }
  }

  async #call<Req, Res>(method: Method<Req, Res>, request: Req, timeoutMs: number | undefined): Promise<Res> {
    try {
      return await this.#send(method, request, timeoutMs);
    } catch (error) {
      throw this.#wrap(method.name, error);
    }
  }

  async #send<Req, Res>(method: Method<Req, Res>, request: Req, timeoutMs: number | undefined): Promise<Res> {
    const began = performance.now();
    try {
      return await this.#ask(method, request, timeoutMs);
    } finally {
      this.#onCall?.(method.name, (performance.now() - began) / 1000);
    }
  }

  async #ask<Req, Res>(method: Method<Req, Res>, request: Req, timeoutMs: number | undefined): Promise<Res> {
    const version = this.#version;
    try {
      return await this.#connection.call(SERVICE[version], method, request, timeoutMs);
    } catch (error) {
      // Answered by the ttrpc library before any service saw the request, so asking again is safe.
      if (!(error instanceof TtrpcError) || error.code !== GRPC.UNIMPLEMENTED || version !== 3) throw error;
      const answer = await this.#connection.call(SERVICE[2], method, request, timeoutMs);
      this.#version = 2;
      return answer;
    }
  }

  #wrap(name: string, cause: unknown): SluiceError {
    if (cause instanceof TtrpcClosed) {
      return new SluiceError('SHIM_FAILED', `the shim of pod ${this.#pod} is gone (during ${name})`, { cause });
    }
    if (!(cause instanceof TtrpcError)) {
      return new SluiceError('SHIM_FAILED', `the shim of pod ${this.#pod} sent an unusable answer to ${name}`, {
        cause,
      });
    }
    return new SluiceError(CODES[cause.code] ?? 'RUNTIME_FAILED', cause.message || `${name} failed`, { cause });
  }
}

const CODES: Record<number, ErrorCode> = {
  [GRPC.DEADLINE_EXCEEDED]: 'TIMED_OUT',
  [GRPC.NOT_FOUND]: 'CONTAINER_NOT_FOUND',
  [GRPC.FAILED_PRECONDITION]: 'NOT_READY',
  [GRPC.UNIMPLEMENTED]: 'UNIMPLEMENTED',
};

function createRequest(task: CreateTask): proto.CreateTaskRequest {
  const { binary, root, systemdCgroup, ioUid = 0, ioGid = 0 } = task.runtime;
  const options: Options = {
    noPivotRoot: false,
    noNewKeyring: false,
    shimCgroup: '',
    ioUid,
    ioGid,
    binaryName: binary,
    root,
    systemdCgroup,
    criuImagePath: '',
    criuWorkPath: '',
    taskApiAddress: '',
    taskApiVersion: 0,
  };
  return {
    id: task.id,
    bundle: task.bundle,
    rootfs: task.rootfs,
    terminal: task.terminal ?? false,
    stdin: task.stdin ?? '',
    stdout: task.stdout ?? '',
    stderr: task.stderr ?? '',
    checkpoint: task.checkpoint ?? '',
    parentCheckpoint: '',
    options: { typeUrl: 'containerd.runc.v1.Options', value: Buffer.from(Options.encode(options).finish()) },
  };
}

/** An object of the OCI runtime spec, as containerd's typeurl library carries it: JSON under a URL of its own. */
function json(name: 'Process' | 'LinuxResources', value: Process | Resources): Any {
  return {
    typeUrl: `types.containerd.io/opencontainers/runtime-spec/1/${name}`,
    value: Buffer.from(encodeSpec(value)),
  };
}

/** Nanoseconds since the epoch; 0 for a time that is not there (also Go's zero time, the year 1). */
export function nanoseconds(time: Timestamp | undefined): bigint {
  if (!time || time.seconds < 0n) return 0n;
  return time.seconds * 1_000_000_000n + BigInt(time.nanos);
}
