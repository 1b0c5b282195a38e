/** What containers take from an image: `config` of the OCI image configuration, under its own names (all of it may be missing). */
export interface ImageConfig {
  User?: string;
  Env?: readonly string[] | null;
  Entrypoint?: readonly string[] | null;
  Cmd?: readonly string[] | null;
  WorkingDir?: string;
  Volumes?: Record<string, unknown> | null;
  StopSignal?: string;
}
