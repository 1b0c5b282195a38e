import { WebSocket } from 'ws';
import { SluiceError } from '../../errors.ts';
import { criClient } from './client.ts';
import { type Command, EXIT, type Output } from './command.ts';
import { findContainer } from './pods.ts';

/** Channels of v5.channel.k8s.io: the first byte of each message. */
const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;
const PROTOCOL = 'v5.channel.k8s.io';
/** Bytes of standard input that wait for the container before reading pauses. */
const MAX_WAITING = 1 << 20;

export const EXEC: Command = {
  name: 'exec',
  summary: 'run a command in a container',
  description: 'The exit status is that of the command. Options of sluice stand before the container.',
  arguments: [
    { name: 'container', description: 'id, the beginning of one, name, or pod/name', complete: 'container' },
    { name: 'command', description: 'the program and its arguments', rest: true },
  ],
  options: [
    { flags: '-i, --stdin', description: 'pass standard input on' },
    { flags: '-t, --tty', description: 'with a terminal' },
  ],
  peers: ['cri'],
  async run(call) {
    using cri = await criClient(call);
    const [text = '', ...cmd] = call.arguments.map(String);
    const container = await findContainer(cri, text);
    if (!container) throw SluiceError.of('CONTAINER_NOT_FOUND', text);
    const tty = call.options.tty === true;
    const stdin = call.options.stdin === true;
    const request = { containerId: container.id, cmd, tty, stdin, stdout: true, stderr: !tty };
    const { url } = await cri.exec(request);
    return await stream(url, { tty, stdin, out: call.out });
  },
};

/** Connects the terminal and the process until that ends; the result is its exit status. */
async function stream(
  url: string,
  { tty, stdin, out }: { tty: boolean; stdin: boolean; out: Output },
): Promise<number> {
  // The certificate may be one made at start; the URL is secret, good for one use, and this machine's.
  const socket = new WebSocket(url.replace(/^http/, 'ws'), [PROTOCOL], { rejectUnauthorized: false });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  let status = '';
  socket.on('error', (cause) =>
    reject(new SluiceError('INTERNAL', 'the streaming server cannot be reached', { cause })),
  );
  socket.on('message', (message: Buffer) => {
    const data = message.subarray(1);
    if (message[0] === CHANNEL.stdout) out.write(data);
    else if (message[0] === CHANNEL.stderr) process.stderr.write(data);
    else if (message[0] === CHANNEL.error) status += data.toString();
  });
  socket.on('close', () => {
    try {
      resolve(exitStatus(status));
    } catch (error) {
      reject(error);
    }
  });
  socket.on('open', () => {
    if (tty) sendSize(socket);
    if (stdin) sendInput(socket);
  });
  const resized = () => sendSize(socket);
  const raw = tty && stdin && process.stdin.isTTY;
  if (raw) process.stdin.setRawMode(true);
  if (tty) process.on('SIGWINCH', resized);
  try {
    return await promise;
  } finally {
    if (raw) process.stdin.setRawMode(false);
    process.stdin.pause();
    process.off('SIGWINCH', resized);
  }
}

function sendInput(socket: WebSocket): void {
  const { stdin } = process;
  stdin.on('data', (data: Buffer) => {
    socket.send(Buffer.concat([Buffer.of(CHANNEL.stdin), data]), () => {
      if (socket.bufferedAmount < MAX_WAITING) stdin.resume();
    });
    if (socket.bufferedAmount >= MAX_WAITING) stdin.pause();
  });
  stdin.on('end', () => socket.send(Buffer.of(CHANNEL.close, CHANNEL.stdin)));
  stdin.resume();
}

function sendSize(socket: WebSocket): void {
  const { columns, rows } = process.stdout;
  if (columns === undefined || socket.readyState !== WebSocket.OPEN) return;
  socket.send(
    Buffer.concat([Buffer.of(CHANNEL.resize), Buffer.from(JSON.stringify({ Width: columns, Height: rows }))]),
  );
}

/**
 * From the metav1.Status that ends a stream. Throws INTERNAL for an end that says nothing, or another failure than a
 * status.
 */
export function exitStatus(text: string): number {
  if (text === '') throw new SluiceError('INTERNAL', 'the connection to the process broke');
  const { status, message, details } = JSON.parse(text) as {
    status?: string;
    message?: string;
    details?: { causes?: { reason?: string; message?: string }[] };
  };
  if (status === 'Success') return EXIT.ok.status;
  const code = details?.causes?.find(({ reason }) => reason === 'ExitCode')?.message;
  if (code === undefined) throw new SluiceError('INTERNAL', message ?? 'the process could not be run');
  return Number(code);
}
