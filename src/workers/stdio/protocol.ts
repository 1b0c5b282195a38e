/**
 * The protocol between main and the stdio worker: inputs and outputs of calls, the worker's requests about execs, and
 * the messages that carry them. Types of plain data only; both sides import them.
 */
import type { PlainError } from '../../errors.ts';
import type { Reply } from '../serve.ts';

/** Paths; "" for a stream that does not exist. With a tty there are only stdin and stdout. */
export interface Fifos {
  stdin: string;
  stdout: string;
  stderr: string;
}

/**
 * Everything that the worker needs to serve a container's IO. Main keeps it and sends it again to a restarted worker.
 */
export interface IoRegistration {
  id: string;
  fifos: Fifos;
  tty: boolean;
  /** Absolute path; "" discards the output. */
  logPath: string;
  /** Bytes of content in one log entry; 0 or less for no limit. */
  maxLine: number;
  /** stdin is closed when the first client that wrote to it disconnects. */
  stdinOnce: boolean;
}

/** Totals since the container's IO was opened. */
export interface IoStats {
  /** Bytes read from the container. */
  bytes: number;
  /** Log entries: lines and parts of lines. */
  entries: number;
  /** Those of them that are parts of lines. */
  split: number;
  droppedBytes: number;
  droppedEntries: number;
}

export interface StdioStats {
  containers: Record<string, IoStats>;
  /** Totals of all containers, closed ones too, since the worker started. */
  totals: { bytes: number; entries: number };
  /** Open streaming connections. */
  sessions: { exec: number; attach: number; portforward: number };
  /** Issued URLs that were not used yet. */
  tokens: number;
}

export interface DrainInput {
  id: string;
  /** Without EOF the output counts as complete after so long without a byte, in milliseconds. Default 500. */
  quietMs?: number;
  /** Time limit of the whole drain, in milliseconds. Default 10000. */
  maxMs?: number;
}

/** An exec of a container, or the container's first process where `execId` is left out. */
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
  /** The worker has made and opened them. */
  fifos: Fifos;
}

/**
 * The worker's requests to main, which main implements with the shim's Task client. All of them reject with a
 * SluiceError.
 */
export interface ExecBackend {
  /**
   * Task.Exec, then Task.Start. The process may have ended when it resolves; `waitExec` still returns its exit code.
   */
  startExec(start: ExecStart): Promise<void>;
  /** Task.Wait: the exit code, 128 + n for a signal. */
  waitExec(exec: ExecRef): Promise<number>;
  /**
   * Sends SIGKILL to the exec's process group: Task.Kill alone reaches one process. runc makes the process a session
   * leader, so its pid, which Task.Start returns, is the group's id. An exec that has ended is fine.
   */
  killExec(exec: ExecRef): Promise<void>;
  /** Task.Delete of an exec that has ended and was drained. An absent one is fine. */
  endExec(exec: ExecRef): Promise<void>;
  /** Task.ResizePty. */
  resize(size: ProcessRef & { width: number; height: number }): Promise<void>;
  /** Task.CloseIO: the shim closes its write end of stdin, so that the process gets EOF. */
  closeStdin(process: ProcessRef): Promise<void>;
}

export type AskOp = keyof ExecBackend;

export type StreamRequest =
  | ({ kind: 'exec'; containerId: string; cmd: string[] } & StreamOptions)
  | ({ kind: 'attach'; containerId: string } & StreamOptions)
  | {
      kind: 'portforward';
      sandboxId: string;
      /** Path of the pod's network namespace; "" for the host network. */
      netns: string;
      /** Ports of the request; SPDY clients give the port with each connection. */
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
  /** host:port or [v6]:port; with port 0 the kernel chooses one. */
  address: string;
  /** Paths of PEM files, or "self-signed" for a certificate that is generated at start. Left out for plain HTTP. */
  tls?: { cert: string; key: string } | 'self-signed';
  /** A connection without traffic for so long is closed (milliseconds). */
  idleTimeoutMs: number;
  /** Time within which a client must send its request and open its streams, in milliseconds. Default 30000. */
  handshakeTimeoutMs?: number;
}

/** `url` is http://host:port or https://host:port with the actual port. */
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
  /** Bytes beyond the limit, which were dropped. */
  dropped: number;
  /** False when a process that it left behind still had its output open. */
  complete: boolean;
}

/** Events that the worker reports on its own. */
export type StdioEvent =
  | { kind: 'log-failed'; id: string; path: string; message: string }
  | { kind: 'keeper-failed'; message: string }
  | { kind: 'main-priority'; message: string }
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
  /** Main is a real-time thread, and this one watches over that. */
  realtime: boolean;
}
