// OpenTelemetry's own variables, as far as they are honoured: off without an endpoint, refused where one is not usable.
import type { OtlpConfig } from './otlp.ts'

export const OTLP_VARIABLES = [
  /** Of a collector; traces go to `/v1/traces` below it. */
  'OTEL_EXPORTER_OTLP_ENDPOINT',
  /** In its place: the whole address for traces. */
  'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
  /** `name=value,name=value`, values percent-encoded. */
  'OTEL_EXPORTER_OTLP_HEADERS',
  'OTEL_SERVICE_NAME',
  /** Share of the traces that are exported, 0 to 1. */
  'OTEL_TRACES_SAMPLER_ARG',
] as const

export type OtlpVariables = Readonly<Record<(typeof OTLP_VARIABLES)[number], string>>

const HEADER_NAME = /^[!#$%&'*+.^_`|~\w-]{1,128}$/
const HEADER_VALUE = /^[\x20-\x7e]{0,4096}$/
const SERVICE = /^[\x20-\x7e]{1,255}$/

/** Undefined: no traces are exported. Or the names of the variables that are not usable. */
export function readOtlp(
  given: Partial<OtlpVariables>,
  service: string,
): OtlpConfig | undefined | readonly (keyof OtlpVariables)[] {
  const { OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: traces } = given
  if (!endpoint && !traces) return undefined
  const problems: (keyof OtlpVariables)[] = []
  const url = traces ? addressOf(traces) : addressOf(`${endpoint?.replace(/\/$/, '')}/v1/traces`)
  if (url === undefined) problems.push(traces ? 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT' : 'OTEL_EXPORTER_OTLP_ENDPOINT')
  const headers = headersOf(given.OTEL_EXPORTER_OTLP_HEADERS ?? '')
  if (headers === undefined) problems.push('OTEL_EXPORTER_OTLP_HEADERS')
  const name = given.OTEL_SERVICE_NAME ?? service
  if (!SERVICE.test(name)) problems.push('OTEL_SERVICE_NAME')
  const ratio = Number(given.OTEL_TRACES_SAMPLER_ARG || '1')
  if (!(ratio >= 0 && ratio <= 1)) problems.push('OTEL_TRACES_SAMPLER_ARG')
  if (problems.length > 0 || url === undefined || headers === undefined) return problems
  return { url, headers, service: name, ratio }
}

/** Without a user, a password or a query: a credential belongs into a header, where no log repeats it. */
function addressOf(text: string): string | undefined {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol)) return undefined
  return url.username || url.password || url.search || url.hash ? undefined : url.href
}

function headersOf(text: string): Record<string, string> | undefined {
  const headers: Record<string, string> = {}
  for (const pair of text.split(',').filter((one) => one.trim() !== '')) {
    const at = pair.indexOf('=')
    const name = pair.slice(0, at).trim()
    try {
      const value = decodeURIComponent(pair.slice(at + 1).trim())
      if (at < 0 || !HEADER_NAME.test(name) || !HEADER_VALUE.test(value)) return undefined
      headers[name] = value
    } catch {
      return undefined
    }
  }
  return headers
}
