/**
 * The fields of `config` in the OCI image configuration that containers use, under their own names; each may be
 * missing.
 */
export interface ImageConfig {
  User?: string;
  Env?: readonly string[] | null;
  Entrypoint?: readonly string[] | null;
  Cmd?: readonly string[] | null;
  WorkingDir?: string;
  Volumes?: Record<string, unknown> | null;
  StopSignal?: string;
}
