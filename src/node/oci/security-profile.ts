import { SecurityProfile_ProfileType as Kind, type SecurityProfile } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';

/**
 * Parses the deprecated string form of SecurityProfile; undefined for "". Throws INVALID_REQUEST for an unknown value.
 */
export function deprecatedProfile(text: string, field: string): SecurityProfile | undefined {
  if (text === '') return undefined;
  if (text === 'runtime/default' || text === 'docker/default') {
    return { profileType: Kind.RuntimeDefault, localhostRef: '' };
  }
  if (text === 'unconfined') return { profileType: Kind.Unconfined, localhostRef: '' };
  if (text.startsWith('localhost/'))
    return { profileType: Kind.Localhost, localhostRef: text.slice('localhost/'.length) };
  throw new SluiceError('INVALID_REQUEST', `linux.security_context.${field}: unknown profile "${text}"`);
}

/**
 * Throws INVALID_REQUEST for a profile type that CRI does not define, and unless localhost_ref is set exactly for type
 * Localhost.
 */
export function checkProfile(profile: SecurityProfile | undefined, field: string): void {
  if (profile === undefined) return;
  const { profileType, localhostRef } = profile;
  const known: number[] = Object.values(Kind);
  if (!known.includes(profileType)) {
    throw new SluiceError('INVALID_REQUEST', `linux.security_context.${field}: unknown profile type ${profileType}`);
  }
  if ((profileType === Kind.Localhost) !== (localhostRef !== '')) {
    throw new SluiceError(
      'INVALID_REQUEST',
      `linux.security_context.${field}: localhost_ref must be set exactly when the profile type is Localhost`,
    );
  }
}
