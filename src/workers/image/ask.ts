import { challenges } from './download.ts';
import { type HttpRequest, send } from './http.ts';

export interface Ask extends HttpRequest {
  /** Bytes of an answer that are read; a longer one is refused. */
  maxBytes: number;
}

/** An answer of a registry, or why there was none. */
export type Told =
  | {
      kind: 'answer';
      status: number;
      headers: Record<string, string>;
      /** WWW-Authenticate, each header apart. */
      challenges: string[];
      body: Uint8Array;
      /** Redirections followed, this is who answered. */
      url: string;
    }
  | { kind: 'failed'; message: string; code: string };

const BODY_MS = 60_000;

/** One small question to a registry or its token server, answered in full. Trouble with the connection is an answer too. */
export async function ask({ maxBytes, ...request }: Ask): Promise<Told> {
  try {
    const { response, url } = await send({
      ...request,
      headers: { ...request.headers, 'accept-encoding': 'identity' },
    });
    const timer = setTimeout(() => response.destroy(new Error(`the answer took longer than ${BODY_MS} ms`)), BODY_MS);
    const chunks: Buffer[] = [];
    try {
      let size = 0;
      for await (const chunk of response) {
        size += chunk.length;
        if (size > maxBytes) throw Object.assign(new Error(`more than ${maxBytes} bytes`), { code: 'EMSGSIZE' });
        chunks.push(chunk as Buffer);
      }
    } finally {
      clearTimeout(timer);
      response.destroy();
    }
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(response.headers)) if (typeof value === 'string') headers[name] = value;
    return {
      kind: 'answer',
      status: response.statusCode ?? 0,
      headers,
      challenges: challenges(response),
      body: Buffer.concat(chunks),
      url: url.href,
    };
  } catch (error) {
    return { kind: 'failed', message: messageOf(error), code: (error as NodeJS.ErrnoException).code ?? '' };
  }
}

/** Node tries all addresses of a name at once; the failure of all is an AggregateError without words. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map((one) => (one instanceof Error ? one.message : String(one))).join(', ');
  }
  return error instanceof Error ? error.message : String(error);
}
