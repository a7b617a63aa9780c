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
