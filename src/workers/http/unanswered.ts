import { explain, SluiceError } from '../../errors.ts';

/** `details` of the error for a request that got no answer. */
export interface Unanswered {
  /** The code of the system, OpenSSL or the HTTP parser (ECONNREFUSED, CERT_HAS_EXPIRED), or SILENT. */
  unanswered: string;
  /** The connection ended under the request: a kept connection may have been closed at the other end meanwhile. */
  broken: boolean;
  /** The same request may be answered later; false for certificates and settings. */
  passing: boolean;
}

const BROKEN = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']);
const CERTIFICATE =
  /CERT|UNABLE_TO_|SELF_SIGNED|HOSTNAME_MISMATCH|INVALID_CA|ERR_TLS_|ERR_SSL_|ERR_OSSL|UND_ERR_PRX_TLS/;

/** The error for a request whose connection failed, also while the body was read. */
export function unanswered(url: string, cause: unknown, known?: string): SluiceError {
  const code = known ?? (cause as NodeJS.ErrnoException | undefined)?.code ?? explain(cause);
  const error = new SluiceError('REGISTRY_UNAVAILABLE', `${new URL(url).host} does not answer`, {
    cause: inWords(cause),
  });
  error.details = { unanswered: code, broken: BROKEN.has(code), passing: !CERTIFICATE.test(code) } satisfies Unanswered;
  return error;
}

/** The details of {@link unanswered}, for an error that it made (in this thread or in a worker). */
export function unansweredDetails(error: unknown): Unanswered | undefined {
  const details = error instanceof SluiceError ? (error.details as Partial<Unanswered> | undefined) : undefined;
  return details?.unanswered === undefined ? undefined : (details as Unanswered);
}

/** Advice of Node's to those who write a program, at the end of its messages about certificates. */
const ADVICE = /; if the root CA is installed locally, try running Node\.js with --use-system-ca$/;

function inWords(cause: unknown): unknown {
  if (!(cause instanceof Error)) return cause;
  // Node tries all addresses of a name; the error for the failure of all has no message of its own.
  if (cause instanceof AggregateError && cause.message === '') return new Error(cause.errors.map(explain).join(', '));
  return ADVICE.test(cause.message) ? new Error(cause.message.replace(ADVICE, '')) : cause;
}
