// OpenTelemetry's variables, for both tiers of `sidepath up`.
import type { OtlpConfig } from '../../telemetry/otlp.ts'
import { OTLP_VARIABLES, type OtlpVariables, readOtlp } from '../../telemetry/read-otlp.ts'
import { UserError } from '../fail.ts'

/** Taken out of the environment: a header may hold a credential, and whatever this process starts has no use for it. */
export function takeOtel(): Partial<OtlpVariables> {
  return Object.fromEntries(
    OTLP_VARIABLES.flatMap((name) => {
      const value = process.env[name]
      delete process.env[name]
      return value === undefined ? [] : [[name, value]]
    }),
  )
}

/** Throws `UserError`, for both tiers. A name for the service is the gateway's: two tiers under one would be hard to tell apart. */
export function backendOtlp({ OTEL_SERVICE_NAME: _, ...otel }: Partial<OtlpVariables>): OtlpConfig | undefined {
  const read = readOtlp(otel, 'sidepath-backend')
  if (read === undefined || 'url' in read) return read
  throw new UserError(`${read.join(', ')}: not usable; see docs/telemetry.md, or unset OTEL_EXPORTER_OTLP_ENDPOINT.`)
}
