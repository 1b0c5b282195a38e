import type { Connection } from '../http/dispatchers.ts';

/** How one blob is fetched from one host. */
export interface BlobSource extends Connection {
  /** http, https, or file for a blob on this machine. */
  url: string;
  headers: Record<string, string>;
  /** By origin, as {@link Exchange} takes them. */
  authorizations: Record<string, string>;
  /**
   * The URL comes from the image (`urls` of a foreign layer) and not from the node's configuration: the image's author
   * chose the host, so nothing of what it answers goes into an error message.
   */
  foreign?: boolean;
}

/** A registry's refusal: `details` of REGISTRY_DENIED. */
export interface Refusal {
  status: number;
  /** WWW-Authenticate, and the URL that sent it. */
  challenge?: string;
  url: string;
}

/** Answers a refused authorization with new ones, or with undefined when there are none. */
export type Renew = (refusal: Refusal) => Promise<Record<string, string> | undefined>;
