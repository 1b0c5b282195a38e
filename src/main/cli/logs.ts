import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerState } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { Cri } from '../cri/client.ts';
import { criClient } from './client.ts';
import { type Call, type Command, EXIT, optionText } from './command.ts';
import { findContainer } from './pods.ts';

/** A line of a CRI log: time, stream, F (whole) or P (the first part of a longer one), content. */
export interface LogLine {
  time: string;
  stream: string;
  partial: boolean;
  content: string;
}

const POLL_MS = 200;
const CHUNK = 1 << 16;

export const LOGS: Command = {
  name: 'logs',
  summary: 'print a container’s log',
  description: 'Lines of the container’s standard error go to standard error.',
  arguments: [{ name: 'container', description: 'id, the beginning of one, name, or pod/name', complete: 'container' }],
  options: [
    { flags: '-f, --follow', description: 'go on with what is written from now on, until the container ends' },
    { flags: '--tail <lines>', description: 'only the last so many lines' },
    { flags: '--timestamps', description: 'print the time before each line' },
  ],
  peers: ['cri'],
  json: true,
  async run(call) {
    using cri = await criClient(call);
    const [text = ''] = call.arguments;
    const container = await findContainer(cri, text);
    if (!container) throw SluiceError.of('CONTAINER_NOT_FOUND', text);
    const { status } = await cri.containerStatus({ containerId: container.id });
    if (!status?.logPath) throw new SluiceError('INVALID_REQUEST', `container ${text} has no log file`);
    const tail = optionText(call, 'tail');
    if (tail !== undefined && !/^\d+$/.test(tail)) throw new SluiceError('INVALID_REQUEST', '--tail is a whole number');
    const ended = call.options.follow ? () => hasEnded(cri, container.id) : async () => true;
    await print(call, status.logPath, tail === undefined ? undefined : Number(tail), ended);
    return EXIT.ok.status;
  },
};

async function hasEnded(cri: Cri, containerId: string): Promise<boolean> {
  const { status } = await cri.containerStatus({ containerId });
  return status?.state === ContainerState.CONTAINER_EXITED;
}

/** Prints what the file has, and what comes, until `ended` says so before a look that finds nothing new. */
async function print(call: Call, path: string, tail: number | undefined, ended: () => Promise<boolean>): Promise<void> {
  const reader = new LogReader(path);
  try {
    const first = reader.read();
    for (const line of tail === undefined ? first : first.slice(Math.max(0, first.length - tail))) write(call, line);
    for (;;) {
      const last = await ended();
      const lines = reader.read();
      for (const line of lines) write(call, line);
      if (last && lines.length === 0) return;
      if (!last) await sleep(POLL_MS);
    }
  } finally {
    reader[Symbol.dispose]();
  }
}

function write({ options, out }: Call, line: LogLine): void {
  if (options.json) {
    out.write(`${JSON.stringify(line)}\n`);
    return;
  }
  const to = line.stream === 'stderr' && out === process.stdout ? process.stderr : out;
  to.write(`${options.timestamps ? `${line.time} ` : ''}${line.content}${line.partial ? '' : '\n'}`);
}

/** Reads a log from its beginning, and goes over to the new file when the old one is rotated away. */
class LogReader implements Disposable {
  readonly #path: string;
  #fd: number;
  #rest = Buffer.alloc(0);

  /** Throws ENOENT for a log that is not there. */
  constructor(path: string) {
    this.#path = path;
    this.#fd = openSync(path, 'r');
  }

  /** The whole lines since the last call. */
  read(): LogLine[] {
    const lines = this.#readOn();
    if (!this.#rotated()) return lines;
    closeSync(this.#fd);
    this.#fd = openSync(this.#path, 'r');
    return [...lines, ...this.#readOn()];
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  #readOn(): LogLine[] {
    const chunk = Buffer.alloc(CHUNK);
    for (;;) {
      const length = readSync(this.#fd, chunk);
      if (length === 0) break;
      this.#rest = Buffer.concat([this.#rest, chunk.subarray(0, length)]);
    }
    const end = this.#rest.lastIndexOf(10);
    if (end < 0) return [];
    const text = this.#rest.subarray(0, end).toString();
    this.#rest = this.#rest.subarray(end + 1);
    return text.split('\n').map(parseLogLine);
  }

  #rotated(): boolean {
    try {
      return statSync(this.#path).ino !== fstatSync(this.#fd).ino;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false; // between two files
      throw error;
    }
  }
}

export function parseLogLine(line: string): LogLine {
  const match = /^(\S+) (stdout|stderr) ([FP])\S* (.*)$/.exec(line);
  const [, time = '', stream = 'stdout', tag = 'F', content = line] = match ?? [];
  return { time, stream, partial: tag === 'P', content };
}
