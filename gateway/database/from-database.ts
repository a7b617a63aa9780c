// Nothing is authorised without the database: where it is busy or gone the answer is 503, and the caller may try again.
import { databaseUnavailable, GatewayError } from '../errors.ts'
import { errorFields, log } from '../log.ts'

/** Answers that are meant for the caller pass as they are. */
export async function fromDatabase<T>(act: () => Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (error) {
    if (error instanceof GatewayError) throw error
    log('database.unavailable', errorFields(error))
    throw databaseUnavailable()
  }
}

/** Busy, full or out of reach, rather than asked for something wrong. D1 says so in words, SQLite by a code. */
const AWAY =
  /SQLITE_(BUSY|LOCKED|FULL|IOERR|CANTOPEN|READONLY|PROTOCOL)|D1 DB is overloaded|Network connection lost|D1_ERROR: (internal|storage)/i

export function isDatabaseAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return AWAY.test(error.message) || (error.cause !== undefined && isDatabaseAway(error.cause))
}
