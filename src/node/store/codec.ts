/** How a row becomes text and a row again. */
export interface Codec<R> {
  encode(row: R): string;
  decode(text: string): R;
}

/** For rows that JSON holds as they are. */
export function plainCodec<R>(): Codec<R> {
  return { encode: (row) => JSON.stringify(row), decode: (text) => JSON.parse(text) };
}

/** A protobuf message's encoder and decoder, as proto/gen has them. */
interface Message<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

/**
 * For rows with a CRI message in `config` and times (bigint) in `times`. The message is stored as protobuf: JSON has no
 * int64, a replacer function for it costs ten times what the rest of the row does, and the message seldom changes while
 * its row is written four times in a launch, so its text is kept.
 */
export function criCodec<M extends object, R extends { config: M }>(
  message: Message<M>,
  times: readonly (keyof R & string)[],
): Codec<R> {
  const texts = new WeakMap<M, string>();
  const textOf = (config: M): string => {
    let text = texts.get(config);
    if (text === undefined) {
      text = Buffer.from(message.encode(config).finish()).toString('base64');
      texts.set(config, text);
    }
    return text;
  };
  return {
    encode(row) {
      const stored: Record<string, unknown> = { ...row, config: textOf(row.config) };
      for (const time of times) stored[time] = String(row[time]);
      return JSON.stringify(stored);
    },
    decode(text) {
      const stored = JSON.parse(text);
      for (const time of times) stored[time] = BigInt(stored[time]);
      return { ...stored, config: message.decode(Buffer.from(stored.config, 'base64')) };
    },
  };
}
