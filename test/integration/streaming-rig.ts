/**
 * A minimal CRI server for crictl, whose containers are processes of this machine. The streaming server and the stdio
 * worker are the real ones, so the protocols are tested with their real client, without a shim, a pod or an image.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import {
  ContainerState,
  ContainerStatus,
  ContainerStatusResponse,
  ImageServiceDefinition,
  RuntimeServiceDefinition,
} from '../../proto/gen/cri.ts';
import { grpcService } from '../../src/node/grpc/service.ts';
import { Stdio } from '../../src/node/streaming/stdio.ts';
import type {
  ExecBackend,
  ExecRef,
  ExecStart,
  Fifos,
  IoRegistration,
  ListenInput,
  ProcessRef,
  StdioEvent,
  StreamRequest,
} from '../../src/workers/stdio/protocol.ts';

/** A message with default values. */
const blank = <T>(type: { decode(input: Uint8Array): T }): T => type.decode(new Uint8Array());

interface Running {
  child: ChildProcess;
  /** Like a shim, the backend keeps stdin open until closeStdin is called. */
  closeStdin(): void;
  ended: Promise<number>;
}

const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;

/** Starts `cmd` in a new session with the FIFOs as its stdio, as a shim does. */
function start(cmd: string[], fifos: Fifos, tty: boolean): Running {
  let stdin = fifos.stdin === '' ? -1 : openSync(fifos.stdin, constants.O_RDWR | constants.O_NONBLOCK);
  const closeStdin = () => {
    if (stdin >= 0) closeSync(stdin);
    stdin = -1;
  };
  const redirect = (sign: string, path: string) => `${sign}${quote(path || '/dev/null')}`;
  const command = cmd.map(quote).join(' ');
  const line = tty ? `script -qefc ${quote(command)} /dev/null` : command;
  const io = `${redirect('<', fifos.stdin)} ${redirect('>', fifos.stdout)} ${tty ? '2>&1' : redirect('2>', fifos.stderr)}`;
  const child = spawn('sh', ['-c', `exec ${line} ${io}`], { detached: true, stdio: 'ignore' });
  const ended = new Promise<number>((resolve) => {
    child.on('exit', (code, signal) => {
      closeStdin();
      resolve(code ?? (signal === 'SIGKILL' ? 137 : 143));
    });
  });
  return { child, closeStdin, ended };
}

/** Runs execs and containers as local processes, and records its calls for the tests. */
export class LocalBackend implements ExecBackend {
  readonly execs = new Map<string, Running>();
  readonly containers = new Map<string, Running>();
  readonly asked: string[] = [];
  readonly sizes: (ProcessRef & { width: number; height: number })[] = [];

  async startExec({ execId, cmd, fifos, tty }: ExecStart): Promise<void> {
    this.asked.push('start');
    if (cmd[0] === 'no-such-program') throw new Error('exec: "no-such-program": executable file not found in $PATH');
    this.execs.set(execId, start(cmd, fifos, tty));
  }
  async waitExec({ execId }: ExecRef): Promise<number> {
    return (await this.execs.get(execId)?.ended) ?? -1;
  }
  async killExec({ execId }: ExecRef): Promise<void> {
    this.asked.push('kill');
    kill(this.execs.get(execId));
  }
  async endExec({ execId }: ExecRef): Promise<void> {
    this.asked.push('end');
    this.execs.delete(execId);
  }
  async resize(size: ProcessRef & { width: number; height: number }): Promise<void> {
    this.sizes.push(size);
  }
  async closeStdin({ containerId, execId }: ProcessRef): Promise<void> {
    this.asked.push(execId ? 'close exec stdin' : 'close container stdin');
    (execId ? this.execs.get(execId) : this.containers.get(containerId))?.closeStdin();
  }
}

function kill(running: Running | undefined): void {
  try {
    if (running?.child.pid !== undefined) process.kill(-running.child.pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

export class Rig implements AsyncDisposable {
  readonly folder: string = mkdtempSync(join(tmpdir(), 'sluice-streaming-'));
  readonly backend: LocalBackend = new LocalBackend();
  readonly events: StdioEvent[] = [];
  readonly deaths: Error[] = [];
  readonly stdio: Stdio;
  /** Path of the network namespace that port-forward uses. */
  netns = '';
  url = '';
  readonly #grpc = new Server();
  readonly #ios: IoRegistration[] = [];

  private constructor() {
    this.stdio = new Stdio({
      execDir: join(this.folder, 'execs'),
      backend: this.backend,
      onEvent: (event) => this.events.push(event),
      onWorkerDied: (error) => this.deaths.push(error),
    });
  }

  static async open(listen: Partial<ListenInput> = {}): Promise<Rig> {
    const rig = new Rig();
    const input = { address: '127.0.0.1:0', idleTimeoutMs: 60_000, handshakeTimeoutMs: 5_000, ...listen };
    rig.url = (await rig.stdio.listen(input)).url;
    await rig.#serve();
    return rig;
  }

  get endpoint(): string {
    return `unix://${join(this.folder, 'cri.sock')}`;
  }

  issue(request: StreamRequest): Promise<string> {
    return this.stdio.issue(request);
  }

  /** Issues the URL of an exec. */
  exec(cmd: string[], streams: { tty?: boolean; stdin?: boolean; stderr?: boolean } = {}): Promise<string> {
    const { tty = false, stdin = false, stderr = !tty } = streams;
    return this.issue({ kind: 'exec', containerId: 'c', cmd, tty, stdin, stdout: true, stderr });
  }

  /** Starts a container: a process whose output goes to a log and to attached clients. */
  async container(id: string, cmd: string[], change: Partial<IoRegistration> = {}): Promise<IoRegistration> {
    const path = (name: string) => join(this.folder, id, name);
    const tty = change.tty ?? false;
    const fifos = { stdin: path('stdin'), stdout: path('stdout'), stderr: tty ? '' : path('stderr') };
    const logPath = join(this.folder, `${id}.log`);
    const io = { id, fifos, tty, logPath, maxLine: 16384, stdinOnce: false, ...change };
    await this.stdio.openIo(io);
    this.#ios.push(io);
    this.backend.containers.set(id, start(cmd, io.fifos, tty));
    return io;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const running of [...this.backend.execs.values(), ...this.backend.containers.values()]) {
      kill(running);
      await running.ended;
    }
    for (const io of this.#ios) await this.stdio.removeIo(io);
    this.#grpc.forceShutdown();
    await this.stdio[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true });
  }

  async #serve(): Promise<void> {
    type Handler = (call: { request: never }, done: (error: Error | null, reply?: unknown) => void) => void;
    const unary = (handle: (request: never) => Promise<unknown>): Handler => {
      return ({ request }, done) => {
        handle(request).then(
          (reply) => done(null, reply),
          (error: Error) => done(error),
        );
      };
    };
    this.#grpc.addService(grpcService(RuntimeServiceDefinition), {
      version: unary(async () => ({
        version: '0.1.0',
        runtimeName: 'sluice',
        runtimeVersion: '0.1.0',
        runtimeApiVersion: 'v1',
      })),
      containerStatus: unary(async ({ containerId }: { containerId: string }) => ({
        ...blank(ContainerStatusResponse),
        status: {
          ...blank(ContainerStatus),
          id: containerId,
          state: ContainerState.CONTAINER_RUNNING,
          metadata: { name: containerId, attempt: 0 },
        },
      })),
      exec: unary(async ({ containerId, cmd, tty, stdin, stdout, stderr }: ExecRequestLike) => ({
        url: await this.issue({ kind: 'exec', containerId, cmd, tty, stdin, stdout, stderr }),
      })),
      attach: unary(async ({ containerId, tty, stdin, stdout, stderr }: ExecRequestLike) => ({
        url: await this.issue({ kind: 'attach', containerId, tty, stdin, stdout, stderr }),
      })),
      portForward: unary(async ({ podSandboxId, port }: { podSandboxId: string; port: number[] }) => ({
        url: await this.issue({ kind: 'portforward', sandboxId: podSandboxId, netns: this.netns, ports: port }),
      })),
    } as never);
    this.#grpc.addService(grpcService(ImageServiceDefinition), {
      imageFsInfo: unary(async () => ({ imageFilesystems: [], containerFilesystems: [] })),
    } as never);
    await new Promise<void>((resolve, reject) => {
      this.#grpc.bindAsync(this.endpoint, ServerCredentials.createInsecure(), (error) =>
        error ? reject(error) : resolve(),
      );
    });
  }
}

interface ExecRequestLike {
  containerId: string;
  cmd: string[];
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}
