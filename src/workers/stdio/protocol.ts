/**
 * What main and the stdio worker say to each other: the calls' inputs and outputs, the worker's questions about execs, and the
 * messages that carry them. Types only, plain data only; both sides import it.
 */
import type { PlainError } from '../../errors.ts';
import type { Reply } from '../serve.ts';

/** Paths; "" where the stream is not there. With a tty only stdin and stdout are. */
export interface Fifos {
  stdin: string;
  stdout: string;
  stderr: string;
}

/** Everything the worker needs to serve a container's IO. Main keeps it, and says it again to a worker that was restarted. */
export interface IoRegistration {
  id: string;
  fifos: Fifos;
  tty: boolean;
  /** Absolute; "" discards the output. */
  logPath: string;
  /** Bytes of content in one log line; 0 or less for no limit. */
  maxLine: number;
  /** stdin is closed when the first client that wrote to it goes. */
  stdinOnce: boolean;
}

/** Sums since the container's IO was opened. */
export interface IoStats {
  /** Read from the container. */
  bytes: number;
  /** Log lines and pieces of lines. */
  entries: number;
  /** Of these, pieces of lines that were too long. */
  split: number;
  droppedBytes: number;
  droppedEntries: number;
}

export interface StdioStats {
  containers: Record<string, IoStats>;
  /** Of all containers, closed ones too, since the worker began. */
  totals: { bytes: number; entries: number };
  /** Open streaming connections. */
  sessions: { exec: number; attach: number; portforward: number };
  /** URLs given out and not used yet. */
  tokens: number;
}

export interface DrainInput {
  id: string;
  /** Without the end of the stream: so long a silence counts as one, in milliseconds. Default 500. */
  quietMs?: number;
  /** In all, in milliseconds. Default 10000. */
  maxMs?: number;
}

/** An exec of a container, or the container itself where `execId` is left out. */
export interface ProcessRef {
  containerId: string;
  execId?: string;
}

export interface ExecRef {
  containerId: string;
  execId: string;
}

export interface ExecStart extends ExecRef {
  cmd: string[];
  tty: boolean;
  /** Made and opened by the worker already. */
  fifos: Fifos;
}

/**
 * What the worker asks of main, and main of the shim. Main implements it with the shim's Task client. All of it rejects with a
 * SluiceError.
 */
export interface ExecBackend {
  /** Task.Exec, then Task.Start. The process may have ended when it resolves: `waitExec` still answers. */
  startExec(start: ExecStart): Promise<void>;
  /** Task.Wait: the exit code, 128 + n for a signal. */
  waitExec(exec: ExecRef): Promise<number>;
  /**
   * SIGKILL to the exec's whole process group (runc makes the process a session leader, so its pid, which Task.Start answers, is the
   * group's id): Task.Kill alone reaches one process. An exec that has ended is fine.
   */
  killExec(exec: ExecRef): Promise<void>;
  /** Task.Delete of an exec that has ended and was drained. One that is gone is fine. */
  endExec(exec: ExecRef): Promise<void>;
  /** Task.ResizePty. */
  resize(size: ProcessRef & { width: number; height: number }): Promise<void>;
  /** Task.CloseIO: the shim drops its own write end of stdin, so that the process sees the end. */
  closeStdin(process: ProcessRef): Promise<void>;
}

export type AskOp = keyof ExecBackend;

export type StreamRequest =
  | ({ kind: 'exec'; containerId: string; cmd: string[] } & StreamOptions)
  | ({ kind: 'attach'; containerId: string } & StreamOptions)
  | {
      kind: 'portforward';
      sandboxId: string;
      /** Path of the pod's network namespace; "" on the host network. */
      netns: string;
      /** Ports of the request; SPDY clients name theirs per connection. */
      ports: number[];
    };

export interface StreamOptions {
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}

export type StreamKind = StreamRequest['kind'];

export interface ListenInput {
  /** host:port, [v6]:port; port 0 takes any. */
  address: string;
  /** Paths of PEM files, or "self-signed" for a certificate made on the spot. Left out: plain HTTP. */
  tls?: { cert: string; key: string } | 'self-signed';
  /** A connection over which nothing passes for so long is closed. */
  idleTimeoutMs: number;
  /** Time for a client to send its request, and to open its streams. Default 30000. */
  handshakeTimeoutMs?: number;
}

/** `url` is http://host:port or https://host:port with the real port. */
export interface Listening {
  url: string;
  port: number;
}

export interface CaptureInput {
  execId: string;
  /** Bytes kept of each stream; the rest is read and dropped. */
  maxBytes: number;
}

export interface Captured {
  stdout: Uint8Array;
  stderr: Uint8Array;
  /** Bytes that were over the limit. */
  dropped: number;
  /** False when something the process left behind still held its output. */
  complete: boolean;
}

/** What the worker tells without being asked. */
export type StdioEvent =
  | { kind: 'log-failed'; id: string; path: string; message: string }
  | { kind: 'keeper-failed'; message: string }
  | { kind: 'client-dropped'; stream: StreamKind; id: string; message: string }
  | { kind: 'stream-failed'; stream: StreamKind; id: string; message: string };

export type ToWorker =
  | { kind: 'ping' }
  | { kind: 'call'; id: number; op: string; input: unknown }
  | { kind: 'answer'; id: number; ok: true; value: unknown }
  | { kind: 'answer'; id: number; ok: false; error: PlainError };

export type FromWorker =
  | { kind: 'ready' }
  | { kind: 'pong' }
  | { kind: 'reply'; id: number; reply: Reply }
  | { kind: 'ask'; id: number; op: AskOp; input: unknown }
  | { kind: 'event'; event: StdioEvent };

export interface StdioWorkerData {
  /** Folder for the FIFOs of execs; emptied when the worker starts. */
  execDir: string;
}
