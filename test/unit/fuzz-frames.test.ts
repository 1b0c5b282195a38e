/**
 * Frames and messages from the other end of a connection: ttrpc, SPDY, WebSocket channels, HTTP/2 with an odd
 * authority.
 */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { type Duplex, duplexPair } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { constants, deflateSync } from 'node:zlib';
import fc from 'fast-check';
import type { WebSocket } from 'ws';
import { AuthorityRewriter } from '../../src/main/cri/authority.ts';
import { decodeEvent } from '../../src/node/shims/events.ts';
import { encodeFrame, type Frame, FrameReader, MAX_PAYLOAD } from '../../src/node/shims/ttrpc-frame.ts';
import {
  controlFrame,
  DICTIONARY,
  parseHeaders,
  SpdyConnection,
  type SpdyStream,
  TYPE,
} from '../../src/workers/stdio/spdy.ts';
import { WsChannels } from '../../src/workers/stdio/ws-channels.ts';
import { bytes, cut, holds, sizes } from '../rig/fuzz.ts';

const byte = fc.integer({ min: 0, max: 255 });
const word = fc.oneof(
  fc.integer({ min: 0, max: 9 }),
  fc.constantFrom(0x7fffffff, 0x80000000, 0xffffffff),
  fc.nat(0xffffffff),
);

test('ttrpc: frames come out as they were sent, wherever the chunks end', () =>
  holds(
    fc.property(fc.array(fc.tuple(word, byte, bytes(200)), { maxLength: 10 }), sizes, (frames, chunks) => {
      const got: Frame[] = [];
      const reader = new FrameReader((frame) => got.push(frame));
      const sent = Buffer.concat(frames.map(([stream, type, payload]) => encodeFrame(stream, type, payload)));
      for (const chunk of cut(sent, chunks)) reader.push(chunk);
      assert.deepEqual(
        got.map(({ stream, type, payload, oversize }) => [
          stream,
          type,
          Buffer.from(payload).toString('hex'),
          oversize,
        ]),
        frames.map(([stream, type, payload]) => [stream, type, payload.toString('hex'), false]),
      );
    }),
  ));

test('ttrpc: any bytes are frames, and none is longer than allowed', () =>
  holds(
    fc.property(bytes(2000), sizes, (input, chunks) => {
      const reader = new FrameReader(({ payload, oversize }) => {
        assert.ok(payload.length <= MAX_PAYLOAD && (!oversize || payload.length === 0));
      });
      for (const chunk of cut(input, chunks)) reader.push(chunk);
    }),
  ));

test('ttrpc: an event of any bytes is one, or none, or an Error', () =>
  holds(
    fc.property(bytes(300), (payload) => {
      try {
        decodeEvent(payload);
      } catch (error) {
        assert.ok(error instanceof Error);
      }
    }),
  ));

const u32 = (value: number) => {
  const four = Buffer.alloc(4);
  four.writeUInt32BE(value >>> 0);
  return four;
};
const block = (headers: readonly [string, string][]) => {
  const text = (value: string) => Buffer.concat([u32(value.length), Buffer.from(value, 'latin1')]);
  return Buffer.concat([u32(headers.length), ...headers.flatMap(([name, value]) => [text(name), text(value)])]);
};
const header = fc.string({ unit: fc.constantFrom(...'abcXYZ-:\0'), maxLength: 8 });
const headers = fc.array(fc.tuple(header, header), { maxLength: 5 });

test('SPDY: header blocks are parsed, or refused', () =>
  holds(
    fc.property(headers, bytes(80), fc.boolean(), (pairs, noise, valid) => {
      const parsed = parseHeaders(valid ? block(pairs) : noise);
      if (valid) {
        for (const [name, value] of pairs) assert.ok(parsed?.has(name.toLowerCase()), `${name}: ${value}`);
      } else if (parsed) for (const [name, value] of parsed) assert.equal(typeof name + typeof value, 'stringstring');
    }),
  ));

/** The server's end of a SPDY connection, fed by a test. */
function spdy(): { client: Duplex; streams: SpdyStream[]; closed: () => boolean; received: Map<number, string> } {
  const [client, server] = duplexPair();
  const streams: SpdyStream[] = [];
  const received = new Map<number, string>();
  let closed = false;
  new SpdyConnection(server, {
    onStream(stream) {
      streams.push(stream);
      stream.reply();
      stream.on('data', (chunk: Buffer) =>
        received.set(stream.id, (received.get(stream.id) ?? '') + chunk.toString('hex')),
      );
    },
    onClose() {
      closed = true;
    },
  });
  client.on('error', () => {});
  client.resume();
  return { client, streams, closed: () => closed, received };
}

/** zlib inflates in a thread: what depends on it takes a moment. */
const settle = async (until: () => boolean) => {
  for (const end = performance.now() + 3000; performance.now() < end && !until(); ) await turn();
};

const deflated = (raw: Buffer) => deflateSync(raw, { dictionary: DICTIONARY, finishFlush: constants.Z_SYNC_FLUSH });
/** One frame of any kind, with fields that mean something as often as not. */
const spdyFrame = fc.oneof(
  fc
    .tuple(word, byte, bytes(40))
    .map(([stream, flags, body]) =>
      Buffer.concat([u32(stream & 0x7fffffff), Buffer.from([flags]), u32(body.length).subarray(1), body]),
    ),
  fc
    .tuple(fc.constantFrom(...Object.values(TYPE)), byte, bytes(40))
    .map(([type, flags, body]) => controlFrame(type, flags, body)),
  fc
    .tuple(word, headers, byte)
    .map(([id, pairs, flags]) =>
      controlFrame(TYPE.SYN_STREAM, flags, Buffer.concat([u32(id), u32(0), Buffer.alloc(2), deflated(block(pairs))])),
    ),
  fc.tuple(word, word).map(([id, delta]) => controlFrame(TYPE.WINDOW_UPDATE, 0, Buffer.concat([u32(id), u32(delta)]))),
  fc
    .tuple(word, fc.array(fc.tuple(word, word), { maxLength: 3 }))
    .map(([count, entries]) =>
      controlFrame(
        TYPE.SETTINGS,
        0,
        Buffer.concat([u32(count), ...entries.flatMap(([name, value]) => [u32(name), u32(value)])]),
      ),
    ),
  bytes(30),
);

test('SPDY: no frames, in no order, throw or leave a stream open on a closed connection', () =>
  holds(
    fc.asyncProperty(fc.array(spdyFrame, { maxLength: 12 }), sizes, async (frames, chunks) => {
      const { client, streams, closed } = spdy();
      for (const chunk of cut(Buffer.concat(frames), chunks)) if (!client.destroyed) client.write(chunk);
      await turn();
      for (const stream of streams) if (!stream.destroyed) stream.write('answer');
      await turn();
      client.destroy();
      await settle(closed);
      assert.ok(closed());
      await settle(() => streams.every((stream) => stream.destroyed));
      for (const stream of streams) assert.ok(stream.destroyed);
    }),
    150,
  ));

test('SPDY: data of a stream arrives whole, wherever the chunks end', () =>
  holds(
    fc.asyncProperty(fc.array(bytes(100), { minLength: 1, maxLength: 8 }), sizes, async (parts, chunks) => {
      const { client, received } = spdy();
      const open = controlFrame(
        TYPE.SYN_STREAM,
        0,
        Buffer.concat([u32(1), u32(0), Buffer.alloc(2), deflated(block([['a', 'b']]))]),
      );
      const data = parts.map((part) => Buffer.concat([u32(1), Buffer.from([0]), u32(part.length).subarray(1), part]));
      for (const chunk of cut(Buffer.concat([open, ...data]), chunks)) client.write(chunk);
      const whole = Buffer.concat(parts).toString('hex');
      await settle(() => (received.get(1) ?? '') === whole);
      assert.equal(received.get(1) ?? '', whole);
      client.destroy();
    }),
    150,
  ));

/** A WebSocket as far as the channels use it. */
class FakeSocket extends EventEmitter {
  closed: number | undefined;
  pause(): void {}
  resume(): void {}
  send(_data: unknown, _options: unknown, done: (error?: Error) => void): void {
    done();
  }
  close(code: number): void {
    this.closed ??= code;
  }
}

const message = fc.tuple(fc.oneof(fc.constantFrom(0, 1, 4, 48, 52, 255), byte), bytes(40), fc.boolean());

test('WebSocket: messages of any bytes reach their channel, are ignored, or close the connection', () =>
  holds(
    fc.asyncProperty(
      fc.array(message, { maxLength: 20 }),
      fc.boolean(),
      fc.boolean(),
      async (messages, base64, canClose) => {
        const ws = new FakeSocket();
        const channels = new WsChannels(ws as unknown as WebSocket, { base64, canClose });
        const got: string[] = [];
        const stdin = channels.input(0);
        stdin.on('data', (chunk: Buffer) => got.push(chunk.toString('hex')));
        channels.input(4).resume();
        let open = true;
        const wanted: string[] = [];
        for (const [channel, body, binary] of messages) {
          ws.emit('message', Buffer.concat([Buffer.from([channel]), body]), binary);
          if (canClose && channel === 255) open &&= !(body.length === 1 && body[0] === 0);
          else if (open && !base64 && binary && channel === 0 && body.length > 0) wanted.push(body.toString('hex'));
        }
        ws.emit('message', Buffer.alloc(0), true);
        await turn();
        if (!base64) assert.equal(got.join(''), wanted.join(''));
        ws.emit('close');
        await turn();
      },
    ),
  ));

const http2Frame = fc
  .tuple(fc.oneof(fc.constantFrom(0, 1, 1, 1, 4, 9), byte), byte, word, bytes(60))
  .map(([type, flags, stream, body]) =>
    Buffer.concat([u32(body.length).subarray(1), Buffer.from([type, flags]), u32(stream), body]),
  );

test('HTTP/2: whatever the frames, they are passed on the same however they are cut, and nothing is added but an authority', () =>
  holds(
    fc.property(fc.array(http2Frame, { maxLength: 10 }), sizes, (frames, chunks) => {
      const sent = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), ...frames]);
      const whole = new AuthorityRewriter().push(sent);
      const rewriter = new AuthorityRewriter();
      assert.deepEqual(Buffer.concat(cut(sent, chunks).map((chunk) => rewriter.push(chunk))), whole);
      assert.ok(whole.length <= sent.length + frames.length * 20);
    }),
  ));

test('HTTP/2: any bytes are passed on or refused with an Error', () =>
  holds(
    fc.property(bytes(500), (input) => {
      try {
        new AuthorityRewriter().push(input);
      } catch (error) {
        assert.ok(error instanceof Error && /a frame of|a header block/.test(error.message), String(error));
      }
    }),
  ));
