import { Readable, Writable } from 'node:stream';
import type { WebSocket } from 'ws';
import { pooledCopy } from './buffer-pool.ts';

/** First byte of a message that half-closes a channel (from v5 on); the second byte is the channel. */
const CLOSE_SIGNAL = 255;
const ZERO = 48;

export interface ChannelFormat {
  /** Messages are text: the channel as a digit, then base64. */
  base64: boolean;
  /** The client can half-close single channels. */
  canClose: boolean;
}

/** Kubernetes' channels on a WebSocket: the first byte of a message is its channel. */
export class WsChannels {
  readonly #ws: WebSocket;
  readonly #format: ChannelFormat;
  readonly #inputs = new Map<number, Readable>();
  readonly #full = new Set<number>();

  constructor(ws: WebSocket, format: ChannelFormat) {
    this.#ws = ws;
    this.#format = format;
    ws.on('message', (message: Buffer, isBinary: boolean) => this.#receive(message, isBinary));
    ws.on('close', () => {
      for (const input of this.#inputs.values()) input.destroy();
    });
    // ws closes the connection after an error, and emits 'close'.
    ws.on('error', () => {});
  }

  /** The client's data on a channel. The stream emits 'close' without 'end' when the connection breaks. */
  input(channel: number): Readable {
    const input = new Readable({
      highWaterMark: 256 << 10,
      read: () => {
        if (this.#full.delete(channel) && this.#full.size === 0) this.#ws.resume();
      },
      destroy: (error, done) => {
        if (this.#full.delete(channel) && this.#full.size === 0) this.#ws.resume();
        done(error);
      },
    });
    input.on('error', () => {});
    this.#inputs.set(channel, input);
    return input;
  }

  /** A stream that sends on a channel, one message per write. */
  output(channel: number): Writable {
    const output = new Writable({
      highWaterMark: 128 << 10,
      write: (chunk: Buffer, _encoding, done) => this.send(channel, chunk, done),
    });
    output.on('error', () => {});
    this.#ws.on('close', () => output.destroy());
    return output;
  }

  /** Sends one message, which may be empty. Calls `done` when the kernel has it. */
  send(channel: number, bytes: Buffer, done: (error?: Error | null) => void = () => {}): void {
    if (this.#format.base64) {
      this.#ws.send(String.fromCharCode(ZERO + channel) + bytes.toString('base64'), { binary: false }, done);
      return;
    }
    const { copy, written } = pooledCopy(bytes, 1);
    copy[0] = channel;
    this.#ws.send(copy, { binary: true }, (error) => {
      written(error);
      done(error);
    });
  }

  /** Handles a message of the client. Data on channels without an {@link input} is ignored. */
  #receive(message: Buffer, isBinary: boolean): void {
    const first = message[0];
    if (first === undefined) return;
    if (this.#format.canClose && first === CLOSE_SIGNAL) {
      if (message.length !== 2) {
        this.#ws.close(1002, 'a close signal names one channel');
        return;
      }
      const channel = message[1] ?? 0;
      this.#inputs.get(channel)?.push(null);
      this.#inputs.delete(channel);
      return;
    }
    const { base64 } = this.#format;
    if (base64 === isBinary) {
      this.#ws.close(1003, base64 ? 'text was agreed on' : 'binary was agreed on');
      return;
    }
    const channel = base64 ? first - ZERO : first;
    const input = this.#inputs.get(channel);
    if (!input || input.destroyed) return;
    const bytes = base64 ? Buffer.from(message.toString('latin1', 1), 'base64') : message.subarray(1);
    if (bytes.length === 0 || input.push(bytes)) return;
    this.#full.add(channel);
    this.#ws.pause();
  }
}
