document.getElementById("state").textContent = "The page comes here.";
