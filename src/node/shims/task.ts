/**
 * The task service of one shim, typed. Versions 2 and 3 differ only in the service's name; a shim serves one of them.
 * Errors carry the shim's message, which for a failure of the runtime is runc's message.
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
  /** Absolute path, or a name that the shim looks up in its PATH; "" is runc. */
  binary: string;
  /** The runtime's --root; the shim appends its namespace. */
  root: string;
  /** Manage cgroups through systemd. The spec's cgroupsPath must then be `slice:prefix:name`, or runc fails. */
  systemdCgroup: boolean;
  /** Owner of the stdio pipes that the shim creates, for pods with a user namespace. */
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
  /** The shim mounts these on <bundle>/rootfs, in order; empty when the rootfs is already mounted. */
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

/** How a process ended. Death by a signal has the status 128 + its number. `at`: nanoseconds since the epoch. */
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

/** Default time limit, in milliseconds, of calls that run the OCI runtime, which takes seconds on a loaded node. */
const RUNTIME_MS = 120_000;
/** Default time limit, in milliseconds, of calls that the shim answers without the runtime. */
const SHIM_MS = 10_000;

/** Called after each call of a shim, failed or not, with its duration in seconds. */
export type OnCall = (method: string, seconds: number) => void;

/**
 * Calls of one shim. Every method takes a time limit in milliseconds as its last parameter and rejects with a
 * SluiceError: RUNTIME_FAILED (with the runtime's message), SHIM_FAILED (the shim is gone, and may or may not have done
 * the work), TIMED_OUT, CONTAINER_NOT_FOUND, or NOT_READY (for example exec in a container whose first process has
 * ended).
 */
export class Task {
  readonly #connection: TtrpcClient;
  readonly #pod: string;
  readonly #onCall: OnCall | undefined;
  #version: 2 | 3;

  /** `pod` is the sandbox's id, for error messages. `version` is the task service's version that is tried first. */
  constructor(connection: TtrpcClient, version: 2 | 3, pod: string, onCall?: OnCall) {
    this.#onCall = onCall;
    this.#connection = connection;
    this.#version = version;
    this.#pod = pod;
  }

  /** The version that the shim serves; it may differ from the constructor's after the first call. */
  get version(): 2 | 3 {
    return this.#version;
  }

  /** The state of a task or exec; undefined when the shim has none of this id. */
  async state(id: string, execId = '', timeoutMs = SHIM_MS): Promise<TaskState | undefined> {
    const answer = await this.#unlessMissing(METHODS.state, { id, execId }, timeoutMs);
    if (!answer) return undefined;
    const { status, pid, bundle, exitStatus, exitedAt } = answer;
    return { status: STATUS[status] ?? 'unknown', pid, bundle, exitStatus, at: nanoseconds(exitedAt) };
  }

  /** Runs `runc create`: mounts the rootfs and sets up the container without starting its process. Returns the pid. */
  async create(task: CreateTask, timeoutMs = RUNTIME_MS): Promise<number> {
    const { pid } = await this.#call(METHODS.create, createRequest(task), timeoutMs);
    return pid;
  }

  /** Runs `runc start`, or `runc exec` for an exec that {@link exec} has registered. Returns the pid. */
  async start(id: string, execId = '', timeoutMs = RUNTIME_MS): Promise<number> {
    const { pid } = await this.#call(METHODS.start, { id, execId }, timeoutMs);
    return pid;
  }

  /**
   * Deletes an ended task or exec. Undefined when the shim has none of this id, which counts as success: an earlier
   * Delete may have completed after its time limit.
   */
  async delete(id: string, execId = '', timeoutMs = RUNTIME_MS): Promise<Exit | undefined> {
    const answer = await this.#unlessMissing(METHODS.delete, { id, execId }, timeoutMs);
    return answer && { exitStatus: answer.exitStatus, at: nanoseconds(answer.exitedAt) };
  }

  /** Sends a signal; false when the process no longer exists. `all` signals every process of the container. */
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
    const spec = specObject('Process', exec.process);
    await this.#call(METHODS.exec, { id, execId, terminal, stdin, stdout, stderr, spec }, timeoutMs);
  }

  async resizePty(id: string, execId: string, size: { width: number; height: number }, timeoutMs = SHIM_MS) {
    await this.#call(METHODS.resizePty, { id, execId, ...size }, timeoutMs);
  }

  /**
   * Closes the shim's write end of stdin, so that the process reads EOF when ours is closed too. False: no such
   * process.
   */
  async closeStdin(id: string, execId = '', timeoutMs = SHIM_MS): Promise<boolean> {
    return (await this.#unlessMissing(METHODS.closeIo, { id, execId, stdin: true }, timeoutMs)) !== undefined;
  }

  /** Runs `runc update`; `resources` is the OCI `linux.resources` object. */
  async update(id: string, resources: Resources, annotations: Record<string, string> = {}, timeoutMs = RUNTIME_MS) {
    await this.#call(
      METHODS.update,
      { id, resources: specObject('LinuxResources', resources), annotations },
      timeoutMs,
    );
  }

  /**
   * Resolves when the process has ended, at once if it already has. There is no time limit unless one is given; the
   * loss of the connection rejects with SHIM_FAILED, so the wait ends with the shim.
   */
  async wait(id: string, execId = '', timeoutMs?: number): Promise<Exit> {
    const { exitStatus, exitedAt } = await this.#call(METHODS.wait, { id, execId }, timeoutMs);
    return { exitStatus, at: nanoseconds(exitedAt) };
  }

  /** The pids of the shim and of the task (0 when it has none). */
  async connect(id: string, timeoutMs = SHIM_MS): Promise<{ shimPid: number; taskPid: number }> {
    const { shimPid, taskPid } = await this.#call(METHODS.connect, { id }, timeoutMs);
    return { shimPid, taskPid };
  }

  /**
   * Asks the shim to exit, which it does only when it has no task. Use {@link Shims.shutdown}, which waits for the
   * exit.
   */
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
      return await this.#callService(method, request, timeoutMs);
    } finally {
      this.#onCall?.(method.name, (performance.now() - began) / 1000);
    }
  }

  async #callService<Req, Res>(method: Method<Req, Res>, request: Req, timeoutMs: number | undefined): Promise<Res> {
    const version = this.#version;
    try {
      return await this.#connection.call(SERVICE[version], method, request, timeoutMs);
    } catch (error) {
      // The ttrpc library of the shim sends UNIMPLEMENTED before a service sees the request, so a second call is safe.
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
      return new SluiceError(
        'SHIM_FAILED',
        `the shim of pod ${this.#pod} sent a response to ${name} that cannot be decoded`,
        {
          cause,
        },
      );
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

/** An object of the OCI runtime spec as containerd's typeurl library encodes it: JSON under a registered URL. */
function specObject(name: 'Process' | 'LinuxResources', value: Process | Resources): Any {
  return {
    typeUrl: `types.containerd.io/opencontainers/runtime-spec/1/${name}`,
    value: Buffer.from(encodeSpec(value)),
  };
}

/** Nanoseconds since the epoch; 0 for an absent time and for Go's zero time (year 1). */
export function nanoseconds(time: Timestamp | undefined): bigint {
  if (!time || time.seconds < 0n) return 0n;
  return time.seconds * 1_000_000_000n + BigInt(time.nanos);
}
