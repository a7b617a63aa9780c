// What the middleware leaves for the routes.
export interface Env {
  Variables: { requestId: string }
}
