// Starts Swagger UI. A file of its own, because the page's policy allows no inline script.
SwaggerUIBundle({
  url: document.getElementById("docs").dataset.document,
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null, // it would ask a server on the internet
});
