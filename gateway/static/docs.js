// Shows /openapi.json with Swagger UI. Nothing is loaded from elsewhere, and no key is kept after the page is closed.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null, // by default a badge is fetched from another server
});
