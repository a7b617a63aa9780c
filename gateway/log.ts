// One JSON object per line. Fields are flat and chosen by name; nothing of a request is logged wholesale.

type Fields = Readonly<Record<string, string | number | boolean | null>>

/** Anything that looks like a key or a token, wherever it came from. */
const SECRET = /sp_[a-z0-9]{1,16}_[0-9A-Za-z]{16}_\w+|eyJ[\w-]+\.[\w-]+\.[\w-]*/g

export function log(event: string, fields: Fields = {}): void {
  const line = JSON.stringify({ event, ...fields }).replace(SECRET, '[redacted]')
  // biome-ignore lint/suspicious/noConsole: the one place that writes; stdout is where Workers collect logs
  console.log(line)
}

/** Fields that say what kind of error it was and where. A message is never among them: drizzle's holds SQL and values. */
export function errorFields(error: unknown): Fields {
  if (!(error instanceof Error)) return { error: typeof error }
  const cause = error.cause instanceof Error ? error.cause : undefined
  const stack = error.stack ?? ''
  const frames = stack.includes(error.message) ? stack.slice(stack.indexOf(error.message) + error.message.length) : ''
  return {
    error: error.constructor.name,
    cause: cause?.constructor.name ?? null,
    sqlite: /SQLITE_[A-Z_]+/.exec(cause?.message ?? error.message)?.[0] ?? null,
    at: frames.trim().split('\n')[0]?.trim() ?? null,
  }
}
