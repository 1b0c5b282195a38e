/** The HTTP client for manifests, configs and tokens: small answers, read whole by a worker. Layers are streamed by the image workers. */
import { SluiceError } from '../../errors.ts';
import { VERSION } from '../../version.ts';
import type { Answer, Question, Silence } from '../../workers/image/ask.ts';

export const USER_AGENT = `sluice/${VERSION}`;

/** Has a worker ask: to read a machine's authorities would hold up main for a tenth of a second. */
export type Ask = (question: Question) => Promise<Answer>;

export interface Response extends Answer {
  body: Buffer;
}

/** Thrown when no answer came at all. */
export class NoAnswer extends SluiceError {
  /** The system's or OpenSSL's code, for example ECONNREFUSED, EPROTO. */
  readonly reason: string;

  constructor(reason: string, error: SluiceError) {
    super(error.code, error.message, { cause: error.cause });
    this.reason = reason;
  }
}

export class HttpClient {
  readonly #ask: Ask;

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  /**
   * One question and its whole answer, redirects followed. Throws {@link NoAnswer} when there is none, IMAGE_INVALID when it is longer
   * than `limit`, CONFIG_INVALID for useless certificates.
   */
  async request(question: Question): Promise<Response> {
    const headers = { 'user-agent': USER_AGENT, ...question.headers };
    try {
      const answer = await this.#ask({ ...question, headers });
      const { buffer, byteOffset, byteLength } = answer.body;
      return { ...answer, body: Buffer.from(buffer, byteOffset, byteLength) };
    } catch (error) {
      const silence = error instanceof SluiceError ? silenceOf(error) : undefined;
      throw silence === undefined ? error : new NoAnswer(silence, error as SluiceError);
    }
  }
}

function silenceOf(error: SluiceError): string | undefined {
  return (error.details as Partial<Silence> | undefined)?.silence;
}
